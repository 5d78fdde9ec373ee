"""An elastic training: meant for two workers, it goes on with one, and with two again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from modpo.config import SweepConfig
from modpo.training.step import MicroBatch, MicroBatchResult
from tests.deepspeed.trainings import (
    GLOBAL_BATCH_SIZE,
    KINDS,
    InterruptedTrainingError,
    flat,
    interrupt_at,
    sweep_config,
    train_to_end,
)

if TYPE_CHECKING:
    from tests.deepspeed.pair import Pair

STEPS, SAVE_STEPS = 18, 6
LOST_AT = (8, 14)
"""Steps in which the first two workers, and then the one, are lost: two steps after a checkpoint."""
WEIGHTS = "weights.safetensors"

Order = dict[int, list[list[int]]]
"""Rows that each step was taken with, sorted; a step that was lost and taken again has them twice."""


@dataclass(frozen=True)
class Resized:
    """What came of it beside the undisturbed training of two workers.

    Attributes:
        distance: relative L2 distance of the weights at the end.
    """

    order: Order
    undisturbed: Order
    distance: float

    @property
    def is_in_order(self) -> bool:
        """Whether each step, however often it was taken, had the rows of the undisturbed one."""
        return self.order.keys() == self.undisturbed.keys() and all(
            [again] == self.undisturbed[step] for step, taken in self.order.items() for again in taken
        )


def resize(run_dir: Path, pair: Pair, *, kind: str, stage: int) -> Resized:
    """Has 2, 1 and 2 workers train to the end, and 2 workers all the way.

    Args:
        run_dir: prepared and annotated, as `write_run` leaves it.
    """
    resized, undisturbed = (pair.output / f"{name}-{kind}-{stage}" for name in ("resized", "undisturbed"))
    pair.do("segment", kind, str(stage), resized.name, str(LOST_AT[0]))
    train_segment(run_dir, kind, stage, resized, until=LOST_AT[1])
    pair.do("segment", kind, str(stage), resized.name, str(STEPS))
    pair.do("segment", kind, str(stage), undisturbed.name, str(STEPS))
    found, expected = (flat(load_file(folder / WEIGHTS)) for folder in (resized, undisturbed))
    distance = float((found - expected).norm() / expected.norm())
    return Resized(_order(resized), _order(undisturbed), distance)


def train_segment(run_dir: Path, kind: str, stage: int, folder: Path, *, until: int) -> None:
    """The workers that there are train from the newest checkpoint on, until they are lost or all is done.

    They leave the rows of their steps in `folder`, and at the end the weights.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    taken: list[list[int]] = []

    def recorded(plain: MicroBatch) -> MicroBatch:
        def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
            taken.append(rows)
            return plain(model, rows)

        return micro_batch

    checkpoints = folder / "checkpoints"
    start = max((int(path.name[5:]) for path in checkpoints.glob("step_*")), default=0)
    hooks = [interrupt_at(until)] if until < STEPS else []
    try:
        done = train_to_end(run_dir, elastic(run_dir, kind, stage), checkpoints, hooks=hooks, micro_batch=recorded)
    except InterruptedTrainingError:
        pass
    else:
        if rank == 0:
            save_file(done.parameters, folder / WEIGHTS)
    each = 2 // world_size
    steps = [list(chain(*taken[first : first + each])) for first in range(0, len(taken), each)]
    (folder / f"rows-{start}-{rank}.json").write_text(json.dumps(steps), encoding="utf-8")


def elastic(run_dir: Path, kind: str, stage: int) -> SweepConfig:
    """Its batch is that of two workers, whoever is there."""
    return sweep_config(
        run_dir,
        lora=KINDS[kind],
        deepspeed={"stage": stage},
        num_workers=2,
        per_device_train_batch_size=GLOBAL_BATCH_SIZE // 2,
        max_steps=STEPS,
        save_steps=SAVE_STEPS,
    )


def uneven(run_dir: Path, *, num_workers: int) -> SweepConfig:
    """A batch of one row for each of an odd number of workers: of two, one is left without a row now and then."""
    return sweep_config(
        run_dir, lora=KINDS["lora"], num_workers=num_workers, per_device_train_batch_size=1, max_steps=STEPS
    )


def _order(folder: Path) -> Order:
    order: Order = {}
    for start in sorted({int(path.name.split("-")[1]) for path in folder.glob("rows-*.json")}):
        ranks = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"rows-{start}-*.json")]
        for number, shares in enumerate(zip(*ranks, strict=True), start=start + 1):
            order.setdefault(number, []).append(sorted(chain(*shares)))
    return order
