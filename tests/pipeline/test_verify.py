"""`modpo verify` as a reader runs it: every point of both sweeps is the optimum, through the whole stack."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.acceptance.plugin import Accept
from tests.pipeline.conftest import Shell

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("verify"))


@pytest.fixture(scope="module")
def verified(shell: Shell) -> subprocess.CompletedProcess[str]:
    return shell.modpo("verify", "--json", "cases.json")


@pytest.fixture(scope="module")
def cases(shell: Shell, verified: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert verified.returncode == 0, verified.stdout + verified.stderr
    return json.loads((shell.folder / "cases.json").read_text(encoding="utf-8"))["cases"]


def test_every_point_is_the_optimum(cases: list[dict[str, Any]], accept: Accept) -> None:
    for case in cases:
        accept("B9", f"KL(π ‖ π*) in nats, K = {case['num_objectives']}", case["kl"], at_most=1e-3)
        accept("B9", f"max |log π - log π*|, K = {case['num_objectives']}", case["max_log_error"], at_most=0.05)
        assert case["passed"]


def test_two_and_three_objectives_with_their_ends_and_mixtures(cases: list[dict[str, Any]]) -> None:
    vectors = {number: [c["weights"] for c in cases if c["num_objectives"] == number] for number in (2, 3)}
    assert [vector["taste"] for vector in vectors[2]] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert len(vectors[3]) == 6
    assert all(sum(vector.values()) == pytest.approx(1) for both in vectors.values() for vector in both)


def test_the_table_has_a_row_for_each_point(verified: subprocess.CompletedProcess[str]) -> None:
    assert verified.stdout.count(" exact") == 11


def test_models_that_were_exchanged_on_disk_are_found_out(shell: Shell, cases: list[dict[str, Any]]) -> None:
    """The second call trains nothing and reads the final weights again, whatever they are by now."""
    finals = sorted((shell.folder / "runs" / "verify-2" / "points").glob("*/final"))
    first, second = finals[:2]
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    again = shell.modpo("verify")
    assert again.returncode == 6
    assert again.stderr.count("error[MS-604]: a trained policy is not the optimum of its objectives") == 2
