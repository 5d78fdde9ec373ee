"""Non-dominated points and hypervolume. Every objective is higher-is-better; the only sign flag is in this file.

Shapes: N points, K objectives.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray


def non_dominated_mask(points_NK: ArrayLike) -> NDArray[np.bool_]:
    """True for the points that no other point dominates; of equal points all are kept.

    Raises:
        ValueError: not a matrix, or a value that is not finite.
    """
    points = _finite_matrix(points_NK)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points, maximise=True, keep_weakly=True), dtype=bool)


def hypervolume(points_NK: ArrayLike, *, hv_ref_point: ArrayLike) -> float:
    """Volume that the points dominate above `hv_ref_point` (K,), in the product of the objectives' units.

    A point that does not exceed the reference point in every objective adds nothing.

    Raises:
        ValueError: a value that is not finite, or a reference point of another length.
    """
    points = _finite_matrix(points_NK)
    corner = np.asarray(hv_ref_point, dtype=float)
    if corner.shape != (points.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(f"hv_ref_point must be {points.shape[1]} finite numbers, got {corner.tolist()}")
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points, ref=corner, maximise=True))


def nadir_minus(points_NK: ArrayLike, *, fraction: float) -> NDArray[np.float64]:
    """The points' worst value in each objective less `fraction` of their range: a declared corner (K,)."""
    points = _finite_matrix(points_NK)
    low, high = points.min(axis=0), points.max(axis=0)
    corner: NDArray[np.float64] = low - fraction * (high - low)
    return corner


def _finite_matrix(points_NK: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(points_NK, dtype=float)
    if points.ndim != 2:
        raise ValueError(f"points must be a matrix (points, objectives), got shape {points.shape}")
    if not np.isfinite(points).all():
        row, column = np.argwhere(~np.isfinite(points))[0]
        raise ValueError(f"point {row}, objective {column} is {points[row, column]}: every value must be finite")
    return points
