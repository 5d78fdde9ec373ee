"""docs/training-support.md: `python -m tests.deepspeed.cell_page > docs/training-support.md`.

What is refused stands there in the words of the refusal; what is accepted with the tests that are parametrised by it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests.deepspeed import test_cells
from tests.deepspeed.cells import ACCEPTED, DTYPES, OFFLOADS, Cell, refusals
from tests.deepspeed.trainings import KINDS, STAGES

PAGE = "docs/training-support.md"
TESTS = "tests/deepspeed/test_cells.py"
TRAINED = {"lora": "adapter", "full": "all weights"}
KEPT = {"none": "nothing", "optimizer": "optimiser", "parameters": "parameters", "both": "optimiser and parameters"}

HEAD = f"""\
# What can be trained

<!-- Written by `python -m tests.deepspeed.cell_page > {PAGE}` from what {TESTS} is parametrised by. -->

Every ZeRO stage, offload to host memory, precision and kind of training is either refused by `modpo validate`, or
trained and resumed by tests that anyone can run on a CPU. `offload` names what `training.deepspeed.offload` moves.
Weights in 4 bits and other stages of a run are on [what goes together](support.md).
"""
AFTER_TABLE = """\
A name in the table is a case of each of these tests. `pytest -k NAME` runs all of them, with `-m ""` also those that
`make test` leaves to `make test-all`.
"""
BOUNDS = f"""\
Losses are compared at each of twenty steps, relative to the expected one. In float32 they agree to
{test_cells.BOUNDS["float32"]:g}. In bfloat16 two sums of the same numbers are rounded otherwise, and the last of its
eight bits is 0.4% of a number: first steps agree as in float32 (tests/deepspeed/test_precision.py), and twenty steps to
{test_cells.BOUNDS["bfloat16"]:g}, where a learning rate that is wrong by a tenth makes a difference of 0.036 or more.
What is resumed in as many workers as before is compared to the bit, in both.
"""


def training_page() -> str:
    """The page as Markdown."""
    table, tests, reasons = _table(), _tests(), _reasons()
    return "\n".join((HEAD, *table, "", AFTER_TABLE, *tests, "", BOUNDS, *reasons, ""))


def _table() -> Iterator[str]:
    columns = list(product(KINDS, DTYPES))
    yield f"| ZeRO | offload | {' | '.join(f'{TRAINED[kind]}, {dtype}' for kind, dtype in columns)} |"
    yield f"| --- | --- |{' --- |' * len(columns)}"
    for stage, offload in product(STAGES, OFFLOADS):
        cells = (Cell(kind, stage, dtype, offload) for kind, dtype in columns)
        yield f"| {stage} | {KEPT[offload]} | {' | '.join(map(_entry, cells))} |"


def _entry(cell: Cell) -> str:
    refused = refusals(cell)
    return f"no: {refused[0].code}" if refused else f"`{cell.name}`"


def _tests() -> Iterator[str]:
    yield "| what is shown | of | in `make test` | test |"
    yield "| --- | --- | --- | --- |"
    for name, function in vars(test_cells).items():
        cases = _cases(function)
        if cases:
            fast = sum(not case.marks for case in cases)
            shown = (inspect.getdoc(function) or "").splitlines()[0].removesuffix(".")
            yield f"| {shown} | {len(cases)} | {fast} | `{TESTS}::{name}` |"


def _cases(function: Any) -> list[Any]:
    """The cells that a test is parametrised by."""
    marks: list[pytest.Mark] = getattr(function, "pytestmark", [])
    return [case for mark in marks if mark.name == "parametrize" and mark.args[0] == "cell" for case in mark.args[1]]


def _reasons() -> Iterator[str]:
    shown = {problem.code: problem for cell in _refused() for problem in refusals(cell)}
    for code, problem in sorted(shown.items()):
        yield f"- **{code}**: {problem.what}. Wanted: {problem.wanted}."


def _refused() -> Iterator[Cell]:
    for kind, dtype, stage, offload in product(KINDS, DTYPES, STAGES, OFFLOADS):
        cell = Cell(kind, stage, dtype, offload)
        if cell not in ACCEPTED:
            yield cell


if __name__ == "__main__":
    sys.stdout.write(training_page())
