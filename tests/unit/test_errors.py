"""The error contract: stable codes and exit statuses, all problems together, nothing that breaks a terminal."""

from __future__ import annotations

import pickle

import pytest

from modpo.errors import (
    ConflictError,
    InputError,
    InternalError,
    ModpoError,
    Problem,
    SetupError,
    TrialError,
    closest,
    root_cause,
    shown,
)

FULL = Problem(
    code="MS-209", what="a value has the wrong type", where="f:3 (x)", got="5", wanted="text", remedy="mend it"
)


@pytest.mark.parametrize(
    ("kind", "status"), [(InputError, 2), (ConflictError, 3), (SetupError, 4), (TrialError, 5), (InternalError, 6)]
)
def test_exit_statuses_are_those_of_the_documentation(kind: type[ModpoError], status: int) -> None:
    assert kind(FULL).exit_status == status


def test_a_problem_has_one_line_for_each_thing_it_knows() -> None:
    assert FULL.render() == (
        "error[MS-209]: a value has the wrong type\n  --> f:3 (x)\n  got: 5\n  wanted: text\n  help: mend it"
    )
    assert Problem(code="MS-201", what="the source has no rows").render() == "error[MS-201]: the source has no rows"


def test_all_problems_are_in_the_message_up_to_twenty() -> None:
    problems = [Problem(code="MS-201", what=f"fault {number}") for number in range(23)]
    message = str(InputError(iter(problems)))
    assert [line for line in message.splitlines() if "fault" in line] == [
        f"error[MS-201]: fault {n}" for n in range(20)
    ]
    assert message.splitlines()[-1] == "... and 3 more of 23 problems"
    assert "more of" not in str(InputError(problems[:20]))


@pytest.mark.parametrize("kind", [InputError, ConflictError, SetupError, TrialError, InternalError])
def test_errors_cross_process_borders_whole(kind: type[ModpoError]) -> None:
    error = kind([FULL, Problem(code="MS-201", what="other")])
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # what Ray does, on bytes made here
    assert type(copy) is kind
    assert copy.problems == error.problems
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "'plain'"),
        (5, "5"),
        (None, "None"),
        ("two\nlines\x1b[31m", r"'two\nlines\x1b[31m'"),
        ("bell\x07 and \u202e", r"'bell\x07 and \u202e'"),
        ("grün 🦊", "'grün 🦊'"),
    ],
)
def test_values_are_shown_without_control_characters(value: object, expected: str) -> None:
    assert shown(value) == expected
    assert shown(value).isprintable()


def test_objects_that_print_themselves_raw_are_escaped_too() -> None:
    class Raw:
        def __repr__(self) -> str:
            return "red\x1b[31m\nnext line"

    assert shown(Raw()) == r"red\x1b[31m\x0anext line"


def test_long_values_are_cut_at_eighty_characters() -> None:
    assert shown("x" * 78) == "'" + "x" * 78 + "'"
    assert shown("x" * 79) == "'" + "x" * 78 + "…"
    assert len(shown("x" * 10_000)) == 80


@pytest.mark.parametrize(
    ("name", "hint"),
    [("chosn", "; did you mean 'chosen'?"), ("rejcted", "; did you mean 'rejected'?"), ("zebra", ""), ("", "")],
)
def test_likely_typing_errors_get_a_suggestion(name: str, hint: str) -> None:
    assert closest(name, ["chosen", "rejected", "prompt"]) == hint


def test_root_cause_is_one_line() -> None:
    assert root_cause(TrialError([FULL, FULL])) == "a value has the wrong type (MS-209; f:3 (x); 5; mend it)"
    assert root_cause(ValueError("first\n   second")) == "ValueError: first second"
    assert len(root_cause(RuntimeError("x" * 5000))) < 400
