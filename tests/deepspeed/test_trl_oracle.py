"""TRL's DPOTrainer, given the reference that the margins imply, takes the steps of our engine and loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modpo.config import SweepConfig
from modpo.config.spec import Work
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import (
    KINDS,
    annotate,
    point_work,
    sweep_config,
    train_to_end,
    worst_relative,
)
from tests.sweeps import raw_sweep

# Reading ease is on a scale of a hundred: in units of 25 it weighs about as much as the demo's own rewards.
EASE = {"name": "ease", "reward": {"type": "function", "function": "modpo.rewards.rules:reading_ease"}, "unit": 25.0}
# A linear decay from the first step on is what TRL's schedule is too.
OPTIMISATION = {"lr_scheduler_type": "linear", "warmup_ratio": 0.0, "weight_decay": 0.1}
# The two add in other orders. Where all weights train, twenty steps make 2e-6 to 5e-6 of that at this rate, and up to
# 1.5e-5 at 5e-4, by the machine and the release of the libraries.
FULL_RATE = 2e-4


@dataclass(frozen=True)
class Point:
    """Objectives and weights; the objective of the largest weight is primary. Some of its steps are clipped."""

    objectives: list[dict[str, Any]]
    weights: tuple[float, ...]
    max_grad_norm: float


def two_objectives() -> Point:
    return Point(raw_sweep()["objectives"], (0.5, 0.5), 6.0)


def three_objectives() -> Point:
    """In units of 2, 0.5 and 25."""
    vivid, brief = raw_sweep()["objectives"]
    return Point([{**vivid, "unit": 2.0}, {**brief, "unit": 0.5}, EASE], (0.5, 0.2, 0.3), 12.0)


POINTS = {"two": two_objectives(), "three": three_objectives()}


def annotated_run(run_dir: Path, place: Path, config: SweepConfig) -> Path:
    """The run with rewards of these objectives, in their units."""
    place.mkdir()
    for name in ("world", "prepared", "start", "reference"):
        (place / name).symlink_to(run_dir / name)
    annotate(place, config, kind="rewards", output=place / "rewards")
    return place


# TRL sets an argument that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=POINTS)
def point(request: pytest.FixtureRequest) -> Point:
    return POINTS[request.param]


def work_of(run_dir: Path, place: Path, point: Point, kind: str) -> Work:
    optimisation: dict[str, Any] = {**OPTIMISATION, "max_grad_norm": point.max_grad_norm}
    if KINDS[kind] is None:
        optimisation["learning_rate"] = FULL_RATE
    config = sweep_config(run_dir, lora=KINDS[kind], objectives=point.objectives, **optimisation)
    return point_work(annotated_run(run_dir, place / "run", config), config, weights=point.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_trl_takes_the_same_steps(run_dir: Path, tmp_path: Path, point: Point, kind: str, accept: Accept):
    """Twenty steps in float32, from the texts to the weights."""
    from tests.deepspeed.trl_training import trl_training

    work = work_of(run_dir, tmp_path, point, kind)
    ours = train_to_end(Path(work.run_dir), work.config, tmp_path / "checkpoints", weights=point.weights)
    trl = trl_training(Path(work.run_dir), work, tmp_path / "trl")
    assert len(trl.losses) == len(ours.losses) == 20
    difference = [abs(loss - other) for loss, other in zip(ours.losses, trl.losses, strict=True)]
    accept("O1", "difference of the first losses", difference[0], at_most=1e-6)
    accept("O1", "largest difference of losses", max(difference), at_most=1e-5)
    accept("O1", "largest relative difference of losses", worst_relative(trl.losses, ours.losses), at_most=1e-5)
    norms = worst_relative(trl.grad_norms, ours.grad_norms)
    accept("O1", "largest relative difference of gradient norms", norms, at_most=1e-5)
    assert max(ours.grad_norms) > point.max_grad_norm > min(ours.grad_norms)


def test_with_the_margins_the_wrong_way_round_trl_takes_others(run_dir: Path, tmp_path: Path, accept: Accept):
    """So the comparison above can fail."""
    from tests.deepspeed.trl_training import trl_training

    point = POINTS["two"]
    work = work_of(run_dir, tmp_path, point, "lora")
    ours = train_to_end(Path(work.run_dir), work.config, tmp_path / "checkpoints", weights=point.weights)
    flipped = trl_training(Path(work.run_dir), work, tmp_path / "flipped", sign=-1.0)
    wrong = [abs(loss - other) for loss, other in zip(ours.losses, flipped.losses, strict=True)]
    accept("O1", "smallest difference of losses with the margins' sign flipped", min(wrong), at_least=1e-2)
