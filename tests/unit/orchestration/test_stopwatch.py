"""Device seconds of a point over attempts, on a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modpo.config.spec import TrialSpec
from modpo.core.workload import StepTotals
from modpo.ledger import PointRecord
from modpo.orchestration.stopwatch import Stopwatch
from modpo.training.loop import Hook, Progress

TRIAL = TrialSpec(
    trial_id="p", weights=(0.5, 0.5), primary=0, beta=0.1, seed=0, sources=(0,), uses_rewards=True
)  # fmt: skip


class HandClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def test_a_first_attempt_on_two_devices(clock: HandClock) -> None:
    watch = Stopwatch(None, 2, clock)
    clock.now += 10
    with watch.evaluating():
        clock.now += 3
    assert watch.spent() == {"device_seconds": 26.0, "evaluation_device_seconds": 6.0}


def test_a_later_attempt_adds_to_the_earlier_ones(clock: HandClock) -> None:
    earlier = PointRecord(spec=TRIAL, device_seconds=50.0, evaluation_device_seconds=7.0)
    watch = Stopwatch(earlier, 1, clock)
    clock.now += 5
    assert watch.spent() == {"device_seconds": 55.0, "evaluation_device_seconds": 7.0}


def test_an_evaluation_that_fails_has_taken_its_time(clock: HandClock) -> None:
    def broken(progress: Progress) -> bool:
        clock.now += progress.step
        raise ValueError("broken")

    watch = Stopwatch(None, 1, clock)
    hook = watch.counted_as_evaluation(Hook(1, broken))
    with pytest.raises(ValueError, match="broken"):
        hook.run(Progress(4, 100, {}, StepTotals(), torch.nn.Identity()))
    assert watch.spent()["evaluation_device_seconds"] == 4.0


@pytest.mark.parametrize("stops", [True, False])
def test_looks_in_a_training_are_evaluation_and_decide_as_before(clock: HandClock, stops: bool) -> None:
    def look(progress: Progress) -> bool:
        clock.now += progress.step
        return stops

    watch = Stopwatch(None, 1, clock)
    hook = watch.counted_as_evaluation(Hook(25, look))
    run: Callable[[Progress], bool] = hook.run
    assert run(Progress(8, 100, {}, StepTotals(), torch.nn.Identity())) is stops
    assert hook.every == 25
    assert watch.spent() == {"device_seconds": 8.0, "evaluation_device_seconds": 8.0}
