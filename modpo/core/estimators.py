"""Means and intervals over prompts. Responses to one prompt are not independent, so prompts are what is resampled.

Shapes: P prompts, N points, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap_mean(values_P: ArrayLike, *, seed: int, level: float = 0.95, resamples: int = 1000) -> Estimate:
    """Mean of one number per prompt, with its interval.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    values = np.asarray(values_P, dtype=float)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError("a bootstrap needs a non-empty vector of finite numbers, one per prompt")
    return bootstrap(values[:, None], lambda rows: float(rows.mean()), seed=seed, level=level, resamples=resamples)


def bootstrap(
    rows_P: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 1000,
) -> Estimate:
    """`statistic` of the rows, with its percentile interval over resampled rows (axis 0 = prompts).

    The same seed and number of prompts draw the same resamples, so two estimates over the same prompts are paired.
    """
    generator = np.random.default_rng(seed)
    draws = [statistic(rows_P[generator.integers(len(rows_P), size=len(rows_P))]) for _ in range(resamples)]
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value=statistic(rows_P), low=float(low), high=float(high))
