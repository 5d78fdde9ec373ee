"""What runs inside a trial, counted where models are called: the policy, and nothing that no weight vector changes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from transformers import PreTrainedModel

from modpo.core.trees import TreeBatch
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from tests.counting import counted_forwards, counted_responses, num_responses
from tests.deepspeed.trainings import GLOBAL_BATCH_SIZE, KINDS, point_work, sweep_config

STEPS, ACCUMULATION = 3, 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of", "weights"), [("point", (0.5, 0.5)), ("vertex", (1.0, 0.0))])
def test_no_reference_and_no_margin_runs_in_the_training_loop(
    run_dir: Path, tmp_path: Path, kind: str, of: Literal["point", "vertex"], weights: tuple[float, float]
):
    """A forward pass of the policy for each micro-batch: two responses of every pair once, and no other model."""
    size = GLOBAL_BATCH_SIZE // ACCUMULATION
    config = sweep_config(
        run_dir,
        lora=KINDS[kind],
        max_steps=STEPS,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=ACCUMULATION,
    )
    work = point_work(run_dir, config, weights=weights).model_copy(update={"run_dir": str(tmp_path), "kind": of})
    rows, forwards = list[TreeBatch](), list[PreTrainedModel]()
    after_step: list[tuple[int, int, int]] = []

    def mark(_: Progress) -> bool:
        after_step.append((len(forwards), len(rows), num_responses(rows)))
        return False

    with counted_responses(rows), counted_forwards(forwards):
        assert train_point(work, hooks=[Hook(1, mark)]) == STEPS
    in_loop = [
        tuple(now - before for before, now in zip(earlier, later, strict=True))
        for earlier, later in pairwise(after_step)
    ]
    assert in_loop == [(ACCUMULATION, ACCUMULATION, 2 * GLOBAL_BATCH_SIZE)] * (STEPS - 1)
    # In front of the first step stands the step-0 check, of the policy too: one row of a micro-batch.
    assert len(rows) == 1 + STEPS * ACCUMULATION
    assert num_responses(rows) == 2 * size + 2 * STEPS * GLOBAL_BATCH_SIZE
    assert len(set(map(id, forwards))) == 1
