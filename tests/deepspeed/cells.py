"""The support matrix of training: what is trained, in which precision, under which ZeRO stage and with which offload.

`modpo validate` accepts or refuses each cell; tests/deepspeed/test_cells.py has the tests of all that it accepts, and
docs/training-support.md is written from what those tests are parametrised by.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modpo.config import SweepConfig, parse_config
from modpo.config.checks import check_tree
from modpo.config.support import combination
from modpo.errors import Problem
from tests.deepspeed.trainings import GLOBAL_BATCH_SIZE, KINDS, STAGES, sweep_config

DTYPES = ("float32", "bfloat16")
OFFLOADS = {
    "none": {},
    "optimizer": {"optimizer": True},
    "parameters": {"parameters": True},
    "both": {"optimizer": True, "parameters": True},
}


class Cell(NamedTuple):
    """One way to train."""

    kind: str
    stage: int
    dtype: str = "float32"
    offload: str = "none"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.dtype}-zero{self.stage}-{self.offload}"

    @property
    def plain(self) -> Cell:
        """The same training with neither ZeRO nor offload, whose losses every other must have."""
        return self._replace(stage=0, offload="none")

    @property
    def deepspeed(self) -> dict[str, Any]:
        return {"stage": self.stage, "offload": OFFLOADS[self.offload]}

    def config(
        self, run_dir: Path, *, num_workers: int = 1, lora: dict[str, Any] | None = None, **training: Any
    ) -> SweepConfig:
        """A sweep whose global batch the workers share; two of them take all weights in two micro-batches each.

        Args:
            lora: other settings of the adapter.
        """
        accumulation = 2 if (self.kind, num_workers) == ("full", 2) else 1
        return sweep_config(
            run_dir,
            dtype=self.dtype,
            lora=KINDS[self.kind] and (lora or KINDS[self.kind]),
            deepspeed=self.deepspeed,
            num_workers=num_workers,
            per_device_train_batch_size=GLOBAL_BATCH_SIZE // num_workers // accumulation,
            gradient_accumulation_steps=accumulation,
            **training,
        )


CELLS = tuple(
    Cell(kind, stage, dtype, offload) for kind, dtype, stage, offload in product(KINDS, DTYPES, STAGES, OFFLOADS)
)
BY_NAME = {cell.name: cell for cell in CELLS}


def refusals(cell: Cell) -> list[Problem]:
    """Why `modpo validate` refuses a sweep with this training; empty where it does not."""
    sweep = combination("pairs", "function", "sigmoid")
    sweep["model"] |= {"dtype": cell.dtype, "lora": KINDS[cell.kind]}
    sweep["training"] |= {"deepspeed": cell.deepspeed}
    return check_tree(parse_config(sweep))


ACCEPTED = tuple(cell for cell in CELLS if not refusals(cell))


def every_accepted_cell(*, fast: Callable[[Cell], bool]) -> pytest.MarkDecorator:
    """A test of each; those that are not `fast` are left out of `make test`."""
    marks = {cell: () if fast(cell) else (pytest.mark.slow,) for cell in ACCEPTED}
    return pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.name, marks=marks[cell]) for cell in ACCEPTED])
