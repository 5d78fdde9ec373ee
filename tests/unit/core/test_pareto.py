"""Non-dominated points and hypervolume against hand counts, brute force and laws of scale; higher is better."""

from __future__ import annotations

import itertools
import math
from typing import Any

import moocore
import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

from modpo.core.pareto import hypervolume, nadir_minus, non_dominated_mask
from tests.acceptance.plugin import Accept

STAIRCASE = [(1, 5), (2, 4), (3, 3), (4, 2), (5, 1)]
Points = NDArray[np.float64]


def random_points(num_points: int, num_objectives: int, seed: int) -> Points:
    return np.random.default_rng(seed).random((num_points, num_objectives))


def staircase_area(points: Points) -> float:
    """Area dominated above the origin by points of two objectives, as a sum of columns from the right."""
    area = reach = 0.0
    right_to_left = sorted(points.tolist(), reverse=True)
    for (x, y), (next_x, _) in zip(right_to_left, [*right_to_left[1:], (0.0, 0.0)], strict=True):
        reach = max(reach, y)
        area += (x - next_x) * reach
    return area


def union_of_boxes(points: Points) -> float:
    """Volume dominated above the origin, by inclusion and exclusion of the boxes of all subsets: no library's way."""
    subsets = itertools.chain.from_iterable(itertools.combinations(points, size) for size in range(1, len(points) + 1))
    return math.fsum((-1) ** (len(subset) + 1) * np.min(subset, axis=0).prod() for subset in subsets)


def test_staircase_of_five_is_fifteen(accept: Accept) -> None:
    """Columns of height 5, 4, 3, 2, 1 and width 1."""
    accept("E1", "|volume - 15| of a staircase", abs(hypervolume(STAIRCASE, hv_ref_point=(0, 0)) - 15), at_most=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_objectives", [2, 3, 4, 5])
def test_volume_is_that_of_both_libraries_and_of_the_boxes(num_objectives: int, seed: int, accept: Accept) -> None:
    """Both minimise, so they get the negative points; pymoo 0.6.2 itself asks moocore, the boxes ask neither."""
    points, corner = random_points(9, num_objectives, seed), np.zeros(num_objectives)
    volume = hypervolume(points, hv_ref_point=corner)
    others = {
        "moocore": moocore.hypervolume(-points, ref=-corner),
        "pymoo": HV(ref_point=-corner)(-points),
        "the union of boxes": union_of_boxes(points),
    }
    for name, other in others.items():
        accept("E1", f"largest difference from {name}", abs(volume - other), at_most=1e-12)


def test_two_boxes_in_three_dimensions() -> None:
    """Boxes 2x1x1 and 1x2x1 have volume 2 each and share the unit cube: 2 + 2 - 1."""
    assert hypervolume([(2, 1, 1), (1, 2, 1)], hv_ref_point=(0, 0, 0)) == pytest.approx(3, abs=1e-12)


def test_corner_moves_the_volume() -> None:
    """Above (1, 1) the points (3, 3), (2, 4), (4, 2) leave columns 3, 2, 1; the ends of the staircase add nothing."""
    assert hypervolume(STAIRCASE, hv_ref_point=(1, 1)) == pytest.approx(6, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_two_objectives_agree_with_a_sum_of_columns(seed: int) -> None:
    points = random_points(40, 2, seed)
    assert hypervolume(points, hv_ref_point=(0, 0)) == pytest.approx(staircase_area(points), abs=1e-12)


@pytest.mark.parametrize("num_objectives", [2, 3, 4, 5])
def test_order_duplicates_and_dominated_points_change_nothing(num_objectives: int, accept: Accept) -> None:
    points = random_points(15, num_objectives, seed=1)
    corner = np.zeros(num_objectives)
    volume = hypervolume(points, hv_ref_point=corner)
    crowd = np.concatenate([points[::-1], points[:3], 0.5 * points])
    for other in (crowd, points[non_dominated_mask(points)]):
        change = abs(hypervolume(other, hv_ref_point=corner) - volume)
        accept("E1", "largest change by order, duplicates and dominated points", change, at_most=1e-12)


@pytest.mark.parametrize("num_objectives", [2, 3, 4, 5])
def test_volume_scales_with_the_power_of_the_number_of_objectives(num_objectives: int, accept: Accept) -> None:
    points, corner = random_points(15, num_objectives, seed=2), np.full(num_objectives, -0.2)
    scaled = hypervolume(3 * points, hv_ref_point=3 * corner)
    expected = 3**num_objectives * hypervolume(points, hv_ref_point=corner)
    accept("E1", "largest relative error of HV(cV) = c^K HV(V)", abs(scaled / expected - 1), at_most=1e-12)


def test_volume_does_not_see_a_common_shift() -> None:
    points, corner = random_points(15, 3, seed=3), np.zeros(3)
    shift = np.array([10.0, -4.0, 0.5])
    moved = hypervolume(points + shift, hv_ref_point=corner + shift)
    assert moved == pytest.approx(hypervolume(points, hv_ref_point=corner), abs=1e-9)


def test_a_better_point_adds_volume_and_one_below_the_corner_adds_none() -> None:
    assert hypervolume([*STAIRCASE, (6, 6)], hv_ref_point=(0, 0)) == pytest.approx(36, abs=1e-12)
    assert hypervolume([*STAIRCASE, (-1, 100)], hv_ref_point=(0, 0)) == pytest.approx(15, abs=1e-12)


def test_no_points_have_no_volume_and_an_empty_mask() -> None:
    nothing = np.empty((0, 2))
    assert hypervolume(nothing, hv_ref_point=(0, 0)) == 0
    assert non_dominated_mask(nothing).shape == (0,)


def test_hand_sorted_points() -> None:
    """(2, 2) is beaten by (2, 3); (1, 3) by it too; both copies of (4, 1) stay."""
    points = [(2, 2), (2, 3), (4, 1), (1, 3), (4, 1)]
    assert non_dominated_mask(points).tolist() == [False, True, True, False, True]


@pytest.mark.parametrize(("num_objectives", "seed"), [(2, 0), (2, 1), (3, 2), (4, 3)])
def test_mask_equals_comparing_every_two_points(num_objectives: int, seed: int, accept: Accept) -> None:
    points = np.round(random_points(60, num_objectives, seed), 1)  # rounding makes ties in single objectives
    points = np.concatenate([points, points[::2]])  # and these are ties in all
    beaten = [any((other >= point).all() and (other > point).any() for other in points) for point in points]
    kept = [not b for b in beaten]
    differing = np.count_nonzero(non_dominated_mask(points) != kept)
    accept("E2", "points that are judged otherwise", differing, at_most=0)


def test_nadir_minus_a_tenth_of_the_range() -> None:
    """Worst values (1, 10), ranges (4, 20): (1 - .4, 10 - 2)."""
    assert nadir_minus([(1, 30), (5, 10), (3, 20)], fraction=0.1).tolist() == pytest.approx([0.6, 8.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "measure",
    [
        non_dominated_mask,
        lambda points: hypervolume(points, hv_ref_point=(0, 0)),
        lambda points: nadir_minus(points, fraction=0),
    ],
)
def test_values_that_are_not_finite_are_refused_by_name(bad: float, measure: Any) -> None:
    with pytest.raises(ValueError, match=f"point 1, objective 0 is {bad}: every value must be finite"):
        measure([(1, 2), (bad, 3)])


@pytest.mark.parametrize("corner", [(0,), (0, 0, 0), (0, math.nan), (0, -math.inf)])
def test_corner_has_one_finite_number_per_objective(corner: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="hv_ref_point must be 2 finite numbers"):
        hypervolume(STAIRCASE, hv_ref_point=corner)


def test_points_are_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"points must be a matrix \(points, objectives\), got shape \(2,\)"):
        non_dominated_mask([1, 2])
