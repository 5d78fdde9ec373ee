"""Scalars as the YAML 1.2 core schema reads them (yaml.org/spec/1.2.2, chapter 10), and the limits of what is read."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from modpo.config.yaml_file import MAX_DEPTH, MAX_NODES, NotPlainError, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("null", None), ("~", None), ("", None), ("nulls", "nulls"),
        ("0", 0), ("-3", -3), ("+3", 3), ("0x1F", 31), ("12e4567", math.inf),
        ("0123", "0123"), ("08", "08"), ("0b11", "0b11"), ("1:30", "1:30"), ("190:20:30", "190:20:30"),
        ("5e-7", 5e-7), ("1e6", 1e6), ("1E+2", 100.0), (".5", 0.5), ("1.", 1.0), ("-1.5e3", -1500.0),
        (".inf", math.inf), ("-.INF", -math.inf), ("1.2.3", "1.2.3"), ("e5", "e5"), ("'-'", "-"), (".", "."),
        ("2026-11-30", "2026-11-30"), ("2026-11-30T10:00:00Z", "2026-11-30T10:00:00Z"), ("=", "="),
        ("'7'", "7"), ('"true"', "true"), ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert (type(found), found) == (type(value), value)


def test_nan() -> None:
    assert math.isnan(parse_yaml(".nan"))


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def named_often(count: int) -> str:
    """A list of `count` names of one list of 100 values."""
    return f"a: &a [{', '.join(['x'] * 100)}]\nb: [{', '.join(['*a'] * count)}]"


@pytest.mark.parametrize(
    ("within", "beyond", "problem", "line"),
    [
        (nested(MAX_DEPTH), nested(MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels", 1),
        (named_often(980), named_often(1000), f"aliases that stand for more than {MAX_NODES} values", 2),
        ("9223372036854775807", "9223372036854775808", "an integer of more than 64 bits", 1),
        ("a: &x {b: 1}\nc: *x", "a: &x\n  b: *x", "an anchor that contains itself", 1),
        ("a: 1\nb: 2", "a: 1\nb: 2\na: 3", "key 'a' is given twice", 3),
    ],
)
def test_limits(within: str, beyond: str, problem: str, line: int) -> None:
    parse_yaml(within)
    with pytest.raises(NotPlainError) as refused:
        parse_yaml(beyond)
    assert (refused.value.problem, refused.value.line) == (problem, line)


@pytest.mark.parametrize("text", [nested(100_000), "{a: " * 100_000, "- " * 100_000])
def test_depth_costs_no_time(text: str) -> None:
    started = time.process_time()
    with pytest.raises(NotPlainError):
        parse_yaml(text)
    assert time.process_time() - started < 1
