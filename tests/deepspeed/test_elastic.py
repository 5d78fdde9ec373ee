"""Workers come and go, and the training is that of the full number: the same rows in every step, the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deepspeed.pair import Pair
from tests.deepspeed.resizing import LOST_AT, SAVE_STEPS, STEPS, resize, uneven
from tests.deepspeed.trainings import STAGES, flat, one_pair_a_prompt, train_to_end, worst_relative
from tests.deepspeed.two_workers import restore

CASES = [
    pytest.param("full", 0),
    pytest.param("full", 2, marks=pytest.mark.slow),
    *(pytest.param("lora", stage, marks=pytest.mark.slow) for stage in STAGES),
]


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_two_workers_then_one_then_two_train_as_two_do(run_dir: Path, pair: Pair, kind: str, stage: int):
    resized = resize(run_dir, pair, kind=kind, stage=stage)
    assert sorted(resized.order) == list(range(1, STEPS + 1))
    twice = [step for lost in LOST_AT for step in range(lost - lost % SAVE_STEPS + 1, lost + 1)]
    assert [step for step, taken in resized.order.items() if len(taken) == 2] == twice
    assert resized.is_in_order
    assert resized.distance <= 1e-5


@pytest.mark.parametrize("num_workers", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_batch_that_the_workers_do_not_divide_is_trained_on_whole(
    run_dir: Path, tmp_path: Path, pair: Pair, num_workers: int
):
    """Two workers against one with the batch of three (or five); each row counts alike in losses and weights."""
    two = restore(pair.do("odd_batch", str(num_workers)) / f"uneven-{num_workers}")
    config = uneven(run_dir, num_workers=num_workers)
    one = train_to_end(run_dir, config, tmp_path, rows=one_pair_a_prompt)
    plain = config.model_copy(
        update={
            "training": config.training.model_copy(update={"per_device_train_batch_size": num_workers}),
            "resources": config.resources.model_copy(update={"num_workers": 1}),
        }
    )
    whole = train_to_end(run_dir, plain, tmp_path / "whole", rows=one_pair_a_prompt)
    for found in (one, two):
        assert worst_relative(found.losses, whole.losses) <= 1e-5
        distance = float((flat(found.parameters) - flat(whole.parameters)).norm() / flat(whole.parameters).norm())
        assert distance <= 1e-5
        assert (found.totals.tokens, found.totals.flops) == (whole.totals.tokens, whole.totals.flops)
