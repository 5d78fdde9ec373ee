"""The whole catalogue of bad input through `modpo validate`, under one judge, which is judged too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pipeline.bad_configs import BAD_CONFIGS
from tests.pipeline.conftest import Shell
from tests.pipeline.grading import Grades, Outcome, assert_clear_error, grade

pytestmark = pytest.mark.pipeline

CLEAR = "error[MS-113]: a value of the wrong type\n  --> seed\n  got: 'x'\n  wanted: a number\n  help: correct it\n"


@pytest.fixture(scope="module")
def grades(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Grades:
    return grade(demo_world, tmp_path_factory.mktemp("catalogue"))


def test_every_bad_input_is_refused_clearly(grades: Grades) -> None:
    assert grades.bad >= 90
    assert (grades.unclear, grades.silent) == ({}, [])


def test_what_is_only_odd_is_accepted(grades: Grades) -> None:
    assert grades.valid >= 20
    assert grades.false_refusals == []


def test_nothing_is_started(grades: Grades) -> None:
    assert grades.bad
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_the_judge_accepts_a_clear_error() -> None:
    assert_clear_error(Outcome(2, "", CLEAR), codes=["MS-113"], where="seed")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(0, "", CLEAR),
        Outcome(6, "", CLEAR),
        Outcome(2, "no problems found", CLEAR),
        Outcome(2, "", ""),
        Outcome(2, "", CLEAR, ("runs",)),
        Outcome(2, "", CLEAR.replace("MS-113", "MS-600")),
        Outcome(2, "", CLEAR.replace("MS-113", "MS-112")),
        Outcome(2, "", CLEAR.replace("  --> seed\n", "")),
        Outcome(2, "", CLEAR.replace("seed", "name")),
        Outcome(2, "", CLEAR.replace("  help: correct it\n", "")),
        Outcome(2, "", CLEAR + CLEAR.replace("  help: correct it\n", "")),
        Outcome(2, "", CLEAR.replace("'x'", f"'{'x' * 80}'")),
        Outcome(2, "", CLEAR.replace("'x'", "swordfish")),
        Outcome(2, "", CLEAR.replace("'x'", "\x1b[31m")),
        Outcome(2, "", CLEAR * 21),
        Outcome(2, "", f"Traceback (most recent call last):\n{CLEAR}"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_wrong(outcome: Outcome) -> None:
    with pytest.raises(AssertionError):
        assert_clear_error(outcome, codes=["MS-113"], where="seed")


@pytest.mark.parametrize("name", ["an object that YAML would build", "more GPUs than there are"])
def test_the_same_in_a_process_of_its_own(name: str, demo_world: Path, tmp_path: Path) -> None:
    case = BAD_CONFIGS[name]
    config = tmp_path / "sweep.yaml"
    config.write_bytes(case.write(demo_world))
    done = Shell(tmp_path).modpo("validate", config)
    left = tuple(path.name for path in tmp_path.iterdir() if path != config)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, left)
    assert_clear_error(outcome, status=case.status, codes=case.codes, where=case.where, hidden=case.hidden)
