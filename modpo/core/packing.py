"""Which items share a row of tokens, and which rank gets which: plain arithmetic, the same on every machine."""

from __future__ import annotations

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
    room: list[int] = []
    for item in _largest_first(lengths):
        row = next((number for number, left in enumerate(room) if lengths[item] <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(budget)
        rows[row].append(item)
        room[row] -= lengths[item]
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
    loads = [0.0] * num_shares
    for item in _largest_first(costs):
        share = min(range(num_shares), key=loads.__getitem__)  # the first of equals
        shares[share].append(item)
        loads[share] += costs[item]
    return shares


def _largest_first(sizes: Sequence[float]) -> list[int]:
    """Indices by falling size; `sorted` keeps the order of equals."""
    return sorted(range(len(sizes)), key=lambda item: -sizes[item])


def _check_positive(name: str, values: Sequence[float]) -> None:
    if not all(value > 0 for value in values):
        raise ValueError(f"{name} must be positive, got {min(values)}")
