"""Points of the simplex, and which objective may label the loss."""

from __future__ import annotations

import math

import pytest

from modpo.core.weights import (
    auto_primary,
    check_weights,
    eligible_primaries,
    regression_sources,
    simplex_lattice,
    vertex,
)


def test_two_objectives_with_four_divisions() -> None:
    assert simplex_lattice(2, 4) == [(1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)]


def test_three_objectives_with_two_divisions() -> None:
    expected = [(1, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 1, 0), (0, 0.5, 0.5), (0, 0, 1)]
    assert simplex_lattice(3, 2) == expected


@pytest.mark.parametrize(("num_objectives", "divisions"), [(2, 1), (2, 9), (3, 7), (4, 5), (5, 3)])
def test_lattice_has_every_composition_once(num_objectives: int, divisions: int) -> None:
    """Stars and bars: n divisions over K objectives have C(n + K - 1, K - 1) compositions, vertices among them."""
    lattice = simplex_lattice(num_objectives, divisions)
    assert len(set(lattice)) == len(lattice) == math.comb(divisions + num_objectives - 1, num_objectives - 1)
    assert {vertex(num_objectives, j) for j in range(num_objectives)} <= set(lattice)
    assert lattice == sorted(lattice, reverse=True)
    for weights in lattice:
        check_weights(weights)


@pytest.mark.parametrize(("num_objectives", "divisions"), [(1, 3), (2, 0)])
def test_lattice_needs_two_objectives_and_a_division(num_objectives: int, divisions: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_objectives} and {divisions}"):
        simplex_lattice(num_objectives, divisions)


def test_vertex_has_all_weight_on_one() -> None:
    assert vertex(3, 1) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.1,) * 10, (0.3333333, 0.6666667), (0.0, 1.0)])
def test_rounded_weights_are_on_the_simplex(weights: tuple[float, ...]) -> None:
    check_weights(weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "at least two objectives, got 1"),
        ((), "at least two objectives, got 0"),
        ((-1e-9, 1.0), "finite and not negative"),
        ((math.nan, 1.0), "finite and not negative"),
        ((math.inf, 0.0), "finite and not negative"),
        ((0.5, 0.500002), "must sum to 1"),
        ((0.333, 0.333, 0.333), "with the sum 0.999"),
    ],
)
def test_vectors_off_the_simplex_are_refused(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_weights(weights)


ALL = {0, 1, 2}


@pytest.mark.parametrize(
    ("weights", "scored_on", "eligible", "sources"),
    [
        ((0.2, 0.5, 0.3), {0: ALL, 1: ALL, 2: ALL}, (0, 1, 2), (0, 1, 2)),
        ((0.2, 0.5, 0.3), {0: ALL, 2: ALL}, (0, 2), (0, 2)),  # 1 has no pairs
        ((0.2, 0.5, 0.3), {0: {0, 2}, 1: {0, 2}, 2: {0, 2}}, (1,), ()),  # only as the primary does 1 need no reward
        ((0.2, 0.5, 0.3), {0: {0}, 1: {0}, 2: {0}}, (), ()),  # one of 1 and 2 is always a margin
        ((0.0, 0.5, 0.5), {0: {1, 2}, 1: {1, 2}}, (1,), (0, 1)),  # without weight no label, but a regression has none
        ((0.0, 1.0, 0.0), {1: set()}, (1,), ()),  # a vertex is plain DPO and needs no reward
        ((0.0, 1.0, 0.0), {0: ALL, 2: ALL}, (), (0, 2)),
        ((0.5, 0.5, 0.0), {0: {0}, 1: {0, 1}}, (1,), (1,)),  # the rewards of 1 stand only beside its own responses
    ],
)
def test_whose_pairs_can_train_a_point(
    weights: tuple[float, ...], scored_on: dict[int, set[int]], eligible: tuple[int, ...], sources: tuple[int, ...]
) -> None:
    assert eligible_primaries(weights, scored_on) == eligible
    assert regression_sources(weights, scored_on) == sources


@pytest.mark.parametrize(
    ("weights", "eligible", "primary"),
    [
        ((0.2, 0.5, 0.3), (0, 1, 2), 1),
        ((0.2, 0.5, 0.3), (0, 2), 2),
        ((0.4, 0.2, 0.4), (0, 1, 2), 0),
        ((0.5, 0.5), (1,), 1),
    ],
)
def test_auto_primary_is_the_largest_weight_and_the_first_of_a_tie(
    weights: tuple[float, ...], eligible: tuple[int, ...], primary: int
) -> None:
    assert auto_primary(weights, eligible) == primary


def test_no_primary_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no objective can be primary at weights \(0.5, 0.5\)"):
        auto_primary((0.5, 0.5), ())
