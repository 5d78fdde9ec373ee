"""Weight vectors on the simplex, and which objective labels the loss for each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

SIMPLEX_TOLERANCE = 1e-6

WeightVector = tuple[float, ...]


def check_weights(weights: Sequence[float], *, primary: int | None = None) -> None:
    """Refuses what is not a point of the simplex, or leaves the primary objective without weight.

    Raises:
        ValueError: fewer than two weights, a negative or non-finite one, a sum that is not 1 within 1e-6, or
            `primary` out of range or without positive weight (the loss divides by it).
    """
    if len(weights) < 2:
        raise ValueError(f"a weight vector needs at least two objectives, got {len(weights)}")
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"weights must be finite and not negative, got {tuple(weights)}")
    if abs(math.fsum(weights) - 1) > SIMPLEX_TOLERANCE:
        raise ValueError(f"weights must sum to 1, got {tuple(weights)} with the sum {math.fsum(weights):.6g}")
    if primary is not None and not (0 <= primary < len(weights) and weights[primary] > 0):
        raise ValueError(f"primary objective {primary} has no positive weight in {tuple(weights)}")


def simplex_lattice(num_objectives: int, divisions: int) -> list[WeightVector]:
    """All weight vectors whose entries are multiples of 1/divisions, vertices included.

    For two objectives these are divisions + 1 evenly spaced points. The order is lexicographic, first objective
    descending, so the first vector is (1, 0, ...).
    """
    if num_objectives < 2 or divisions < 1:
        raise ValueError(f"a lattice needs K >= 2 and at least one division, got {num_objectives} and {divisions}")

    def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
        if parts == 1:
            return [(total,)]
        return [(head, *rest) for head in range(total, -1, -1) for rest in compositions(total - head, parts - 1)]

    return [tuple(count / divisions for count in counts) for counts in compositions(divisions, num_objectives)]


def vertex(num_objectives: int, index: int) -> WeightVector:
    """e_index: all weight on one objective."""
    return tuple(1.0 if j == index else 0.0 for j in range(num_objectives))


def eligible_primaries(weights: Sequence[float], scored_on: Mapping[int, Collection[int]]) -> tuple[int, ...]:
    """Objectives that can label the loss at these weights, in the order of the objectives.

    k is eligible when it has preference pairs and positive weight, and every other objective with positive weight
    has a reward on the responses of those pairs.

    Args:
        scored_on: for every objective with pairs, the objectives that have a reward on the responses of its pairs.
    """
    needed = _weighted(weights)
    return tuple(k for k in sorted(scored_on) if k in needed and needed - {k} <= set(scored_on[k]))


def regression_sources(weights: Sequence[float], scored_on: Mapping[int, Collection[int]]) -> tuple[int, ...]:
    """Objectives on whose pairs every weighted objective has a reward: labels, and so w_k, do not matter."""
    return tuple(k for k in sorted(scored_on) if _weighted(weights) <= set(scored_on[k]))


def auto_primary(weights: Sequence[float], eligible: Sequence[int]) -> int:
    """The eligible objective of largest weight; the first named one on a tie.

    Curvature in log-ratio units grows as 1/w_k^2, so the largest w_k trains most steadily; the population optimum
    is the same for every choice when rewards are exact.
    """
    if not eligible:
        raise ValueError(f"no objective can be primary at weights {tuple(weights)}")
    return max(eligible, key=lambda k: (weights[k], -k))


def _weighted(weights: Sequence[float]) -> set[int]:
    return {j for j, weight in enumerate(weights) if weight > 0}
