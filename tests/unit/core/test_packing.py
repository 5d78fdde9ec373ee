"""Rows and shares: by hand, and how full and even they are on lengths like those of real pairs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modpo.core.packing import balanced_shares, first_fit_decreasing

BUDGET = 4096
SEEDS = range(20)


def pair_tokens(num_pairs: int, seed: int) -> list[int]:
    """Tokens of prompt and both responses: lognormal, median 330, a twentieth above 1,000, cut at the budget."""
    tokens = np.random.default_rng(seed).lognormal(5.8, 0.7, num_pairs)
    return np.clip(tokens, 20, BUDGET).astype(int).tolist()


class TestRows:
    def test_by_hand(self) -> None:
        """5 and 4 open the first rows (5+4 > 8); 3 fits behind 5, both 2s behind 4, and 1 has no room before row 3."""
        assert first_fit_decreasing([2, 5, 1, 4, 3, 2], budget=8) == [[1, 4], [3, 0, 5], [2]]

    def test_an_item_longer_than_the_budget_has_a_row_of_its_own(self) -> None:
        assert first_fit_decreasing([1, 9, 8, 7], budget=8) == [[1], [2], [3, 0]]

    def test_of_equal_lengths_the_lower_index_goes_first(self) -> None:
        assert first_fit_decreasing([3, 3, 3, 3], budget=6) == [[0, 1], [2, 3]]

    def test_nothing_needs_no_row(self) -> None:
        assert first_fit_decreasing([], budget=8) == []

    @pytest.mark.parametrize("seed", SEEDS)
    def test_no_row_exceeds_the_budget_and_rows_are_nearly_full(self, seed: int) -> None:
        lengths = pair_tokens(128, seed)
        rows = first_fit_decreasing(lengths, BUDGET)
        assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
        tokens = [sum(lengths[item] for item in row) for row in rows]
        assert max(tokens) <= BUDGET
        fill = sum(tokens) / (BUDGET * len(rows))
        print(f"{len(rows)} rows, {fill:.3f} full")
        assert fill >= 0.9

    @pytest.mark.parametrize("seed", SEEDS)
    def test_every_item_is_in_the_first_row_that_had_room(self, seed: int) -> None:
        """Row by row, as the rule says it, with budgets from below the shortest item to above the longest."""
        lengths, budget = pair_tokens(60, seed), 10 * 2 ** (seed % 10)
        rows: list[list[int]] = []
        for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
            for row in rows:
                if sum(lengths[other] for other in row) + lengths[item] <= budget:
                    row.append(item)
                    break
            else:
                rows.append([item])
        assert first_fit_decreasing(lengths, budget) == rows

    @pytest.mark.parametrize(("lengths", "budget"), [([3, 0], 8), ([-1], 8), ([3], 0)])
    def test_what_is_not_positive_is_refused(self, lengths: list[int], budget: int) -> None:
        with pytest.raises(ValueError, match=r"must be positive, got (0|-1)"):
            first_fit_decreasing(lengths, budget)


class TestShares:
    def test_by_hand(self) -> None:
        """9 | 7 | 6, then 5 to the 6, 4 to the 7, 2 to the 9: loads 11, 11, 11."""
        assert balanced_shares([2, 9, 4, 7, 5, 6], num_shares=3) == [[1, 0], [3, 2], [5, 4]]

    def test_of_equals_the_lower_share_is_first(self) -> None:
        assert balanced_shares([1, 1, 1, 1, 1], num_shares=3) == [[0, 3], [1, 4], [2]]

    def test_fewer_items_than_shares_leave_shares_empty(self) -> None:
        assert balanced_shares([2, 3], num_shares=4) == [[1], [0], [], []]

    @pytest.mark.parametrize("seed", SEEDS)
    def test_eight_ranks_with_64_pairs_each_are_even(self, seed: int) -> None:
        costs = pair_tokens(8 * 64, seed)
        shares = balanced_shares(costs, num_shares=8)
        assert sorted(itertools.chain(*shares)) == list(range(len(costs)))
        loads = [sum(costs[item] for item in share) for share in shares]
        imbalance = max(loads) / (sum(loads) / len(loads))
        print(f"max/mean {imbalance:.5f}")
        assert imbalance <= 1.03

    @pytest.mark.parametrize(("costs", "num_shares"), [([1.0, 0.0], 2), ([1.0], 0)])
    def test_what_is_not_positive_is_refused(self, costs: list[float], num_shares: int) -> None:
        with pytest.raises(ValueError, match="must be positive, got 0"):
            balanced_shares(costs, num_shares)


def test_the_order_does_not_depend_on_the_hash_seed(repository: Path) -> None:
    """Ranks are processes of their own, and each plans by itself: all must come to the same plan."""
    code = (
        "from modpo.core.packing import *\n"
        "lengths = [(7 * n) % 50 + 1 for n in range(200)]\n"
        "print(first_fit_decreasing(lengths, 64), balanced_shares(lengths, 7))"
    )
    plans = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(plans) == 1
