"""Learning rate and sample order: hand-worked schedules, whole passes, and nothing but the step number to resume."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from modpo.config.optimisation import OptimisationConfig
from modpo.training.schedule import SampleOrder, learning_rate, num_optimiser_steps


def settings(**values: Any) -> OptimisationConfig:
    return OptimisationConfig(**{"learning_rate": 1.0, **values})


def rates(num_steps: int, **values: Any) -> list[float]:
    return [learning_rate(settings(**values), step=step, num_steps=num_steps) for step in range(num_steps)]


class TestLearningRate:
    def test_linear_with_warmup(self) -> None:
        """Two of ten steps rise in thirds, then eight steps fall from 1 by eighths: none of them is 0."""
        assert rates(10, lr_scheduler_type="linear", warmup_ratio=0.2) == pytest.approx(
            [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
        )

    def test_cosine_by_hand(self) -> None:
        """(1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 3/4."""
        half = math.sqrt(0.5) / 2
        assert rates(4, lr_scheduler_type="cosine", warmup_ratio=0) == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half])

    def test_constant_after_warmup(self) -> None:
        assert rates(4, lr_scheduler_type="constant", warmup_ratio=0.25) == [0.5, 1, 1, 1]

    @pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
    @pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
    @pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.5, 1.0])
    def test_every_step_moves_and_none_exceeds_the_peak(self, kind: str, num_steps: int, warmup_ratio: float) -> None:
        """A step at rate 0 would be paid for and change nothing."""
        values = rates(num_steps, lr_scheduler_type=kind, warmup_ratio=warmup_ratio)
        assert all(0 < value <= 1 for value in values)

    def test_rate_scales_with_the_peak(self) -> None:
        assert rates(5, learning_rate=3e-4) == pytest.approx([3e-4 * value for value in rates(5)])


class TestNumberOfSteps:
    @pytest.mark.parametrize(
        ("num_rows", "epochs", "batch", "steps"),
        [(100, 1, 10, 10), (101, 1, 10, 11), (100, 3, 10, 30), (100, 0.5, 10, 5), (3, 1, 64, 1), (10, 2, 3, 7)],
    )
    def test_epochs_are_rounded_up_to_whole_batches(self, num_rows: int, epochs: float, batch: int, steps: int) -> None:
        assert (
            num_optimiser_steps(settings(num_train_epochs=epochs), num_rows=num_rows, global_batch_size=batch) == steps
        )

    def test_max_steps_wins(self) -> None:
        assert num_optimiser_steps(settings(max_steps=7, num_train_epochs=9), num_rows=100, global_batch_size=1) == 7


class TestSampleOrder:
    @pytest.mark.parametrize("num_rows", [1, 5, 64])
    def test_every_pass_has_every_row_once(self, num_rows: int) -> None:
        order = SampleOrder(num_rows, seed=3)
        for epoch in range(4):
            assert sorted(order.indices(epoch * num_rows, num_rows)) == list(range(num_rows))

    def test_batches_that_reach_over_the_end_drop_nothing(self) -> None:
        """14 batches of 5 over 10 rows are 7 passes: every row is seen exactly 7 times."""
        order = SampleOrder(10, seed=0)
        seen = Counter(row for step in range(14) for row in order.indices(step * 5, 5))
        assert seen == dict.fromkeys(range(10), 7)
        uneven = Counter(row for step in range(20) for row in order.indices(step * 3, 3))
        assert seen.keys() == uneven.keys() and set(uneven.values()) == {6}

    @pytest.mark.parametrize("batch", [1, 2, 3, 7, 30])
    def test_stream_does_not_depend_on_how_it_is_cut(self, batch: int) -> None:
        """One worker or four, micro-batches of any size: the rows of a step are the same."""
        whole = SampleOrder(13, seed=5).indices(0, 60)
        order = SampleOrder(13, seed=5)
        pieces = [row for start in range(0, 60, batch) for row in order.indices(start, min(batch, 60 - start))]
        assert pieces == whole

    def test_a_resumed_stream_goes_on_where_it_stopped(self) -> None:
        assert SampleOrder(13, seed=5).indices(1000, 40) == SampleOrder(13, seed=5).indices(0, 1040)[1000:]

    def test_passes_and_seeds_are_shuffled_differently(self) -> None:
        order = SampleOrder(50, seed=0)
        passes = [tuple(order.indices(epoch * 50, 50)) for epoch in range(4)]
        passes += [tuple(SampleOrder(50, seed=seed).indices(0, 50)) for seed in range(1, 5)]
        assert len(set(passes)) == 8
        assert tuple(range(50)) not in passes
