"""A training whose numbers are not finite ends at that step and says on what; single steps may be left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from modpo.errors import TrialError
from modpo.training.batches import AnnotatedPairs
from modpo.training.guard import MOST_SKIPPED
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from modpo.training.schedule import SampleOrder
from modpo.training.step import MicroBatch, MicroBatchResult
from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import (
    LORA,
    InterruptedTrainingError,
    annotated_pairs,
    point_work,
    sweep_config,
    train_to_end,
)


def overflowing(*calls: int) -> Callable[[MicroBatch], MicroBatch]:
    """Makes a parameter's gradient infinite in these micro-batches, counted from 1: too large for its dtype."""

    def around(plain: MicroBatch) -> MicroBatch:
        seen: list[int] = []

        def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
            seen.append(1)
            if len(seen) in calls:
                trained = next(parameter for parameter in model.parameters() if parameter.requires_grad)

                def overflow(gradient: torch.Tensor) -> torch.Tensor:
                    hook.remove()
                    return torch.full_like(gradient, torch.inf)

                hook = trained.register_hook(overflow)
            return plain(model, rows)

        return micro_batch

    return around


def test_a_reward_that_is_no_number_is_found_to_the_pair_before_any_step(run_dir: Path, tmp_path: Path) -> None:
    """That of `brief` on one pair that `vivid` trains on."""
    config = sweep_config(run_dir, lora=LORA, save_steps=1, max_steps=30)
    rewards = shutil.copytree(run_dir / "rewards", tmp_path / "rewards")
    work = point_work(run_dir, config, weights=(0.5, 0.5))
    rows = annotated_pairs(run_dir, work).rows
    values = np.load(rewards / "rewards_brief.npy")
    values[rows[5], 0] = np.nan
    np.save(rewards / "rewards_brief.npy", values)
    inputs = work.inputs.model_copy(update={"rewards": str(rewards)})
    with pytest.raises(TrialError) as failure:
        train_point(work.model_copy(update={"run_dir": str(tmp_path), "inputs": inputs}))
    name = pyarrow.parquet.read_table(run_dir / "reference" / "table.parquet")["pair_id"][int(rows[5])]
    problem = failure.value.problems[0]
    assert (problem.code, problem.where) == ("MS-501", f"1 of {len(rows)} pairs: {name}")
    assert problem.got == "weights vivid 0.5, brief 0.5; w_k 0.5, beta / w_k 1"
    assert not list(tmp_path.glob("points/*"))


def test_the_row_that_a_loss_is_not_finite_on_is_named(run_dir: Path, tmp_path: Path) -> None:
    """Its reference log-probability turns into no number when the training has begun."""
    config = sweep_config(run_dir, lora=LORA, save_steps=1, max_steps=30)
    bad = 5

    def poisoned(pairs: AnnotatedPairs) -> AnnotatedPairs:
        records = pairs.table.records.copy()
        records["reference_logps"][pairs.rows[bad], 1] = np.nan
        return replace(pairs, table=replace(pairs.table, records=records))

    with pytest.raises(TrialError) as failure:
        train_to_end(run_dir, config, tmp_path, rows=poisoned)
    size, num_rows = (
        config.training.per_device_train_batch_size,
        len(annotated_pairs(run_dir, point_work(run_dir, config))),
    )
    order = SampleOrder(num_rows, seed=0)
    step = next(step for step in range(30) if bad in order.indices(step * size, size)) + 1
    problem = failure.value.problems[0]
    assert problem.what == f"loss and optim/grad_norm not finite at step {step}"
    assert problem.where == f"1 of the batch's {size} rows: {bad}"
    assert problem.got.startswith("learning rate ")
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"step_{number:06d}" for number in range(max(1, step - 2), step)], "the last good ones stay"


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_step_that_was_skipped_is_counted_and_leaves_the_weights_alone(
    run_dir: Path, tmp_path: Path, accept: Accept, stage: int
) -> None:
    """Without that step's rows the training is another one, so what it goes on from is compared: before and after."""
    config = sweep_config(run_dir, dtype="bfloat16", deepspeed={"stage": stage}, save_steps=1, max_steps=4)
    outcome = train_to_end(run_dir, config, tmp_path, micro_batch=overflowing(4))
    counted = json.loads((tmp_path / "step_000004" / "state.json").read_text(encoding="utf-8"))
    assert (outcome.steps, outcome.totals.skipped_steps, counted["totals"]["skipped_steps"]) == (4, 1, 1)
    before, after = ((tmp_path / f"step_{step:06d}" / "parameters.safetensors").read_bytes() for step in (3, 4))
    assert before == after


def test_a_training_goes_on_behind_a_skipped_step_to_the_bit(run_dir: Path, tmp_path: Path, accept: Accept) -> None:
    """The optimiser has taken a step less than the training: that is what its moments are corrected by."""
    config = sweep_config(run_dir, dtype="bfloat16", deepspeed={"stage": 1}, save_steps=1, max_steps=5)
    whole = train_to_end(run_dir, config, tmp_path / "whole", micro_batch=overflowing(2))

    def interrupt(progress: Progress) -> bool:
        if progress.step == 4:
            raise InterruptedTrainingError
        return False

    with pytest.raises(InterruptedTrainingError):
        train_to_end(run_dir, config, tmp_path / "lost", hooks=[Hook(1, interrupt)], micro_batch=overflowing(2))
    resumed = train_to_end(run_dir, config, tmp_path / "lost")
    accept("D5", "numbers that differ in a bit", differing(resumed.state, whole.state), at_most=0)
    assert resumed.totals.skipped_steps == 1


def test_five_skipped_steps_in_a_row_are_too_many(run_dir: Path, tmp_path: Path) -> None:
    """Four, a step that is taken, and five: the tenth is the last."""
    config = sweep_config(run_dir, dtype="bfloat16", deepspeed={"stage": 1}, save_steps=100, max_steps=30)
    overflows = [*range(1, MOST_SKIPPED), *range(MOST_SKIPPED + 1, 30)]
    with pytest.raises(TrialError) as failure:
        train_to_end(run_dir, config, tmp_path, micro_batch=overflowing(*overflows))
    problem = failure.value.problems[0]
    assert (problem.code, problem.what) == ("MS-504", "5 steps in a row were skipped, the last of them step 10")
    assert not list(tmp_path.iterdir())
