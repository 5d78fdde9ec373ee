"""What a slot's workers do with points that they were given together, as the ledger tells it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modpo.artifacts import folder_digest
from modpo.config.spec import Work
from modpo.ledger import PointRecord, final_dir, read_point
from modpo.orchestration.group import train_group
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from tests.deepspeed.trainings import LORA, InterruptedTrainingError, interrupt_at, mixtures, sweep_config


def hooks_of(work: Work, on_progress: Callable[[Progress], None]) -> list[Hook]:
    def run(progress: Progress) -> bool:
        on_progress(progress)
        return False

    return [Hook(2, run)]


def final(work: Work) -> Path:
    assert work.trial is not None
    return final_dir(Path(work.run_dir), work.trial)


def record(work: Work) -> PointRecord:
    assert work.trial is not None
    found = read_point(Path(work.run_dir), work.trial.trial_id)
    assert found is not None
    return found


def test_each_point_is_in_the_ledger_with_its_share_of_the_seconds(run_dir: Path, tmp_path: Path) -> None:
    works = mixtures(tmp_path, run_dir, sweep_config(run_dir, lora=LORA, max_steps=6))
    started = time.monotonic()
    assert train_group(works, hooks_of, rank=0, world_size=1)
    spent = time.monotonic() - started
    records = [record(work) for work in works]
    assert [(found.status, found.attempts, found.step, found.num_steps) for found in records] == [
        ("running", 1, 6, 6)
    ] * 3
    assert 0 < sum(found.device_seconds for found in records) <= spent
    assert max(found.device_seconds for found in records) <= spent / 3
    assert all(final(work).exists() for work in works)


def test_a_point_with_its_final_weights_is_left_out(run_dir: Path, tmp_path: Path) -> None:
    works = mixtures(tmp_path, run_dir, sweep_config(run_dir, lora=LORA, max_steps=4))
    train_point(works[0])
    before = folder_digest(final(works[0]))
    assert train_group(works, hooks_of, rank=0, world_size=1)
    assert folder_digest(final(works[0])) == before
    assert read_point(tmp_path, "p0") is None
    assert all(final(work).exists() for work in works[1:])
    # Nothing is left that two could do together.
    assert train_group(works[:2], hooks_of, rank=0, world_size=1)


def test_points_at_different_steps_are_for_one_after_another(run_dir: Path, tmp_path: Path) -> None:
    works = mixtures(tmp_path, run_dir, sweep_config(run_dir, lora=LORA, max_steps=6, save_steps=2))
    with pytest.raises(InterruptedTrainingError):
        train_point(works[1], hooks=[interrupt_at(3)])
    assert not train_group(works, hooks_of, rank=0, world_size=1)
    assert not any(final(work).exists() for work in works)


def test_a_divergence_is_for_the_point_itself_to_show(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A learning rate at which adapters run off to infinity: the group says so and nobody has failed yet."""
    config = sweep_config(run_dir, lora=LORA, learning_rate=1e30, warmup_ratio=0.0, max_steps=6, save_steps=1)
    works = mixtures(tmp_path, run_dir, config)
    assert not train_group(works, hooks_of, rank=0, world_size=1)
    assert "p0, p1, p2 are trained one after another" in caplog.text and "MS-501" in caplog.text
    assert {(record(work).status, record(work).attempts) for work in works} == {("pending", 0)}
    assert all(record(work).device_seconds > 0 for work in works)
