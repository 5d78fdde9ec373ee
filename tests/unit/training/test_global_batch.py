"""Whoever is there, the rows of a step are those of the full number of workers: counted by hand."""

from __future__ import annotations

import pytest

from modpo.config.optimisation import OptimisationConfig
from modpo.training.global_batch import GlobalBatch, global_batch


def batch(*, size: int, accumulation: int, num_workers: int, there: int) -> GlobalBatch:
    settings = OptimisationConfig(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)
    return global_batch(settings, num_workers=num_workers, world_size=there)


@pytest.mark.parametrize(
    ("there", "micro_batches"),
    [(4, 3), (3, 4), (2, 6), (1, 12)],
)
def test_fewer_workers_take_more_micro_batches(there: int, micro_batches: int) -> None:
    """3 micro-batches of 4 workers are 12 of one."""
    found = batch(size=2, accumulation=3, num_workers=4, there=there)
    assert (found.size, found.micro_batches) == (24, micro_batches)


def test_no_worker_gets_more_rows_at_once_than_the_sweep_file_says() -> None:
    for num_workers in range(1, 9):
        for there in range(1, num_workers + 1):
            for accumulation in (1, 2, 3):
                found = batch(size=4, accumulation=accumulation, num_workers=num_workers, there=there)
                rows = list(range(found.size))
                micro = [found.micro_batch(rows, number) for number in range(found.micro_batches)]
                assert [row for part in micro for row in part] == rows
                shares = [found.share(part, None, rank) for part in micro for rank in range(there)]
                assert sorted(row for share in shares for row in share) == rows
                assert max(map(len, shares)) <= 4
                # Means over shares, weighed like this and averaged, are the mean over rows.
                mean = sum(found.weight(share) * sum(share) / len(share) for share in shares if share)
                assert mean / (found.micro_batches * there) == pytest.approx(sum(rows) / len(rows))


def test_the_full_number_weighs_all_its_rows_by_exactly_one() -> None:
    found = batch(size=7, accumulation=3, num_workers=5, there=5)
    assert found.weight(range(7)) == 1.0


def test_a_worker_may_be_left_without_a_row() -> None:
    """3 rows for 2 workers in 2 micro-batches: the first has one row."""
    found = batch(size=1, accumulation=1, num_workers=3, there=2)
    assert [found.micro_batch([5, 6, 7], number) for number in (0, 1)] == [[5], [6, 7]]
    assert sorted(found.share([5], [9] * 8, rank) for rank in (0, 1)) == [[], [5]]
    assert found.weight([]) == 0.0


def test_shares_have_as_many_tokens() -> None:
    found = batch(size=2, accumulation=1, num_workers=2, there=2)
    costs = {3: 100, 4: 10, 5: 60, 6: 30}
    assert [found.share([3, 4, 5, 6], [costs.get(row, 1) for row in range(7)], rank) for rank in (0, 1)] == [
        [3],
        [4, 5, 6],
    ]
