"""The size of one unit of a reward, from the gaps between two responses to the same prompt.

Gaps, not values: a reward is only known up to a term that depends on the prompt alone, and that cancels in a gap.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def fit_unit(gaps: NDArray[np.float64], normalize: Literal["std", "range"]) -> float:
    """One unit of a reward.

    `std` is the root mean square gap over the root of two, which is the standard deviation of one response's reward
    about its prompt's mean; `range` is the largest gap.

    Args:
        gaps: (N,) reward gaps in raw units, in either order of the two responses.

    Raises:
        ValueError: a gap that is not finite, or none that differs from zero: such a reward has no unit.
    """
    if gaps.size == 0 or not np.isfinite(gaps).all() or not gaps.any():
        raise ValueError("a unit is fitted on finite reward gaps that are not all zero")
    if normalize == "range":
        return float(np.abs(gaps).max())
    # Scaled first, so that squares of large rewards do not overflow.
    largest = float(np.abs(gaps).max())
    return largest * math.sqrt(float(np.mean((gaps / largest) ** 2)) / 2)
