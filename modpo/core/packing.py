"""Which items share a row of tokens, and which rank gets which: plain arithmetic, the same on every machine."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def first_fit_decreasing(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows of item indices for packed forward passes: few rows, none longer in sum than the budget.

    The longest item goes first, each into the first row that still has room; of equal lengths the lower index goes
    first. An item longer than the budget is not cut: it gets a row of its own, and memory is the caller's worry.

    Args:
        lengths: tokens of each item.
        budget: tokens that a row may hold.

    Raises:
        ValueError: a length or the budget is not positive.
    """
    _check_positive("lengths", lengths)
    _check_positive("the budget", [budget])
    rows: list[list[int]] = []
    # A binary tree over as many rows as there are items, the largest room below each node: a million items need it.
    leaves = 1 << max(len(lengths) - 1, 0).bit_length()
    room = [budget] * (2 * leaves)
    for item in _largest_first(lengths):
        needed = min(lengths[item], budget)  # what is longer needs an empty row
        node = 1
        while node < leaves:
            node = 2 * node + (room[2 * node] < needed)
        if node - leaves == len(rows):
            rows.append([])
        rows[node - leaves].append(item)
        room[node] -= lengths[item]
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return rows


def balanced_shares(costs: Sequence[float], num_shares: int) -> list[list[int]]:
    """Item indices for each data-parallel rank, of nearly equal cost: a step is as slow as its slowest rank.

    Longest processing time first: the costliest item goes to the share that has least so far, the lower number of
    equals. With fewer items than shares some shares are empty.

    Args:
        costs: what each item costs in a step, in any unit: tokens, FLOPs, seconds.
        num_shares: ranks.

    Raises:
        ValueError: a cost or the number of shares is not positive.
    """
    _check_positive("costs", costs)
    _check_positive("the number of shares", [num_shares])
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [(0.0, share) for share in range(num_shares)]
    for item in _largest_first(costs):
        load, share = loads[0]  # the least, and of equals the lower number
        shares[share].append(item)
        heapq.heapreplace(loads, (load + costs[item], share))
    return shares


def _largest_first(sizes: Sequence[float]) -> list[int]:
    """Indices by falling size; `sorted` keeps the order of equals."""
    return sorted(range(len(sizes)), key=lambda item: -sizes[item])


def _check_positive(name: str, values: Sequence[float]) -> None:
    if not all(value > 0 for value in values):
        raise ValueError(f"{name} must be positive, got {min(values)}")
