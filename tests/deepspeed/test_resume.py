"""A training that was lost and started again ends as if nothing had happened.

tests/deepspeed/test_cells.py has that for every training that is accepted; here is what surrounds it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modpo.training.loop import Hook
from modpo.training.step import MicroBatch, MicroBatchResult
from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import (
    DROPOUT_LORA,
    STAGES,
    build_engine,
    flat,
    sweep_config,
    train_interrupted,
    train_to_end,
    worst_relative,
)
from tests.deepspeed.two_workers import CROSSINGS, crossing_config, crossing_name, restore


@pytest.mark.parametrize("crossing", CROSSINGS, ids=str)
@pytest.mark.parametrize("first", ["two", "one"])
def test_a_checkpoint_goes_on_in_another_world_size_and_stage(
    run_dir: Path, tmp_path: Path, two_workers: Path, accept: Accept, crossing: tuple[int, int, str], first: str
):
    """The global batch is the same, so the trajectory is: beyond float32 rounding nothing may differ."""
    two, one, kind = crossing
    config = crossing_config(run_dir, kind, stage=one, num_workers=1)
    undisturbed = train_to_end(run_dir, config, tmp_path)
    folder = two_workers / crossing_name(two, one, kind, first=first)
    crossed = train_to_end(run_dir, config, folder / "checkpoints") if first == "two" else restore(folder)
    difference = worst_relative(crossed.losses, undisturbed.losses[6:])
    accept("D3", "relative difference of the losses", difference, at_most=1e-5)
    for part in ("parameters", "moments"):
        expected = flat(getattr(undisturbed, part))
        difference = float((flat(getattr(crossed, part)) - expected).norm() / expected.norm())
        accept("D3", f"relative difference of the {part} at the end", difference, at_most=1e-5)


@pytest.mark.parametrize("crossing", CROSSINGS, ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_two_workers_is_loaded_to_the_bit_by_one(
    run_dir: Path, two_workers: Path, accept: Accept, crossing: tuple[int, int, str], stage: int
):
    checkpoint = two_workers / crossing_name(*crossing, first="two") / "checkpoints" / "step_000006"
    config = crossing_config(run_dir, crossing[2], stage=stage, num_workers=1)
    engine = build_engine(config, str(run_dir / "start"), seed=1)
    parameters, moments = (load_file(checkpoint / f"{part}.safetensors") for part in ("parameters", "moments"))
    engine.load(parameters, moments, num_steps=6)
    loaded = engine.parameters() | engine.moments()
    engine.close()
    accept("D4", "numbers that differ in a bit", differing(loaded, parameters | moments), at_most=0)


@pytest.mark.parametrize("stage", STAGES)
def test_sizes_that_the_ranks_do_not_divide_are_stored_and_loaded_whole(two_workers: Path, accept: Accept, stage: int):
    stored, loaded = restore(two_workers / f"odd-{stage}-stored"), restore(two_workers / f"odd-{stage}-loaded")
    assert stored.parameters and stored.moments
    accept("D4", "numbers that differ in a bit", differing(loaded.state, stored.state), at_most=0)
    assert loaded.losses == stored.losses, "the forward pass must see the loaded weights"


def test_every_row_is_seen_exactly_as_often_as_without_the_loss(run_dir: Path, tmp_path: Path):
    """Four passes and a half over the pairs; the checkpoint stands in the middle of the second."""
    config = sweep_config(run_dir, lora=DROPOUT_LORA, max_steps=None, num_train_epochs=4.5, save_steps=6)
    undisturbed: list[int] = []
    train_to_end(run_dir, config, tmp_path / "undisturbed", micro_batch=recorded(undisturbed))
    train_interrupted(run_dir, config, tmp_path / "resumed", step=9)
    resumed: list[int] = []
    train_to_end(run_dir, config, tmp_path / "resumed", micro_batch=recorded(resumed))
    num_rows = len(set(undisturbed))
    assert 6 * 8 % num_rows != 0
    assert resumed == undisturbed[6 * 8 :]
    for start in range(0, 4 * num_rows, num_rows):
        assert sorted(undisturbed[start : start + num_rows]) == list(range(num_rows))


def recorded(rows_seen: list[int]) -> Callable[[MicroBatch], MicroBatch]:
    def around(plain: MicroBatch) -> MicroBatch:
        def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
            rows_seen.extend(rows)
            return plain(model, rows)

        return micro_batch

    return around


def test_a_damaged_checkpoint_is_passed_over(run_dir: Path, tmp_path: Path, accept: Accept):
    config = sweep_config(run_dir, lora=DROPOUT_LORA, max_steps=12, save_steps=4)
    undisturbed = train_to_end(run_dir, config, tmp_path / "undisturbed")
    train_interrupted(run_dir, config, tmp_path / "resumed", step=9)
    damaged = tmp_path / "resumed" / "step_000008" / "moments.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    resumed = train_to_end(run_dir, config, tmp_path / "resumed")
    assert resumed.losses == undisturbed.losses[4:]
    accept("D4", "numbers that differ in a bit", differing(resumed.state, undisturbed.state), at_most=0)


def test_a_training_that_a_hook_ended_is_saved_and_does_not_go_on_when_started_again(run_dir: Path, tmp_path: Path):
    config = sweep_config(run_dir, lora=DROPOUT_LORA)
    stopped = train_to_end(run_dir, config, tmp_path, hooks=[Hook(5, lambda progress: progress.step == 5)])
    assert (stopped.steps, len(stopped.losses)) == (5, 5)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step_000005"]
    again = train_to_end(run_dir, config, tmp_path)
    assert (again.steps, again.losses) == (5, [])
    assert differing(again.state, stopped.state) == 0
