"""The loss leads to the optimum that it promises, whatever the primary objective, the units and the directions.

A table is fitted on the exact population of labels, so there is no sampling error: see `tabular`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from modpo.config.sources import Direction
from modpo.core.losses import LossSettings
from modpo.core.reward_units import fit_unit
from tests.acceptance.plugin import Accept
from tests.unit.core.tabular import (
    BETA,
    NUM_OBJECTIVES,
    NUM_RESPONSES,
    Table,
    TabularWorld,
    declared,
    fit,
    population,
    random_world,
)

WEIGHTS = (0.2, 0.5, 0.3)
UP: Direction = "maximize"
DOWN: Direction = "minimize"
DECLARATIONS: dict[str, tuple[tuple[float, ...], tuple[Direction, ...]]] = {
    "plain": ((1.0, 1.0, 1.0), (UP, UP, UP)),
    "units": ((2.0, 0.5, 3.0), (UP, UP, UP)),
    "costs": ((1.0, 1.0, 1.0), (DOWN, UP, DOWN)),
    "costs in units": ((0.5, 3.0, 2.0), (UP, DOWN, DOWN)),
}


@pytest.fixture(scope="module")
def world() -> TabularWorld:
    return random_world()


def fit_labels(
    world: TabularWorld,
    weights: tuple[float, ...],
    *,
    primary: int = 0,
    label_unit: float = 1.0,
    margin_rewards: torch.Tensor | None = None,
) -> Table:
    """The fit of the sigmoid loss to drawn labels of the primary objective."""
    point = LossSettings(weights=weights, units=world.units, primary=primary, beta=BETA, label_unit=label_unit)
    seen = population(world, "drawn", primary=primary, unit=label_unit)
    return fit(world, seen, point, margin_rewards=margin_rewards)


def hold(accept: Accept, criterion: str, policy: Table, optimum: Table) -> None:
    accept(criterion, "max |pi - pi*|", np.abs(policy - optimum).max(), at_most=1e-6)
    accept(criterion, "max |log pi - log pi*|", np.abs(np.log(policy) - np.log(optimum)).max(), at_most=1e-4)


@pytest.mark.parametrize("weights", [(0.2, 0.5, 0.3), (0.6, 0.1, 0.3), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0)])
def test_minimiser_is_the_exact_optimum(world: TabularWorld, weights: tuple[float, ...], accept: Accept) -> None:
    hold(accept, "B1", fit_labels(world, weights), world.optimum(weights))


@pytest.mark.parametrize("primary", range(NUM_OBJECTIVES))
@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_every_primary_gives_the_same_policy_however_rewards_are_declared(
    world: TabularWorld, declaration: str, primary: int, accept: Accept
) -> None:
    """Labels are people's, in raw units. Forgetting s_k would scale the logit of a primary whose unit is not 1."""
    written = declared(world, *DECLARATIONS[declaration])
    hold(accept, "B2", fit_labels(written, WEIGHTS, primary=primary), world.optimum(WEIGHTS))


@pytest.mark.parametrize("primary", range(NUM_OBJECTIVES))
def test_labels_drawn_in_the_declared_unit_give_the_same_policy(
    world: TabularWorld, primary: int, accept: Accept
) -> None:
    """As the label stage draws them: t_k = s_k."""
    written = declared(world, *DECLARATIONS["costs in units"])
    policy = fit_labels(written, WEIGHTS, primary=primary, label_unit=written.units[primary])
    hold(accept, "B2", policy, world.optimum(WEIGHTS))


def test_a_cost_that_is_declared_as_a_reward_would_show(world: TabularWorld) -> None:
    """The bounds above can fail: one sign that is not declared moves the optimum by far more."""
    undeclared = declared(world, (1.0, 1.0, 1.0), (UP, UP, UP))
    undeclared.rewards[..., 1] *= -1
    assert np.abs(fit_labels(undeclared, WEIGHTS) - world.optimum(WEIGHTS)).max() > 0.1


@pytest.mark.parametrize("normalize", ["std", "range"])
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_normalised_rewards_have_no_scale(
    world: TabularWorld, normalize: Literal["std", "range"], factor: float
) -> None:
    """Rewards in cents and in euros get units in the same proportion, and so the same policy: |change| <= 1e-6."""

    def normalised(rewards: torch.Tensor) -> TabularWorld:
        first, second = zip(*itertools.combinations(range(NUM_RESPONSES), 2), strict=True)
        gaps = (rewards[:, list(first)] - rewards[:, list(second)]).flatten(0, 1).numpy()
        return replace(
            world, rewards=rewards, units=tuple(fit_unit(gaps[:, j], normalize) for j in range(NUM_OBJECTIVES))
        )

    scale = torch.tensor([1.0, factor, 1.0], dtype=torch.float64)
    plain, scaled = normalised(world.rewards), normalised(world.rewards * scale)
    for primary in (0, 1):
        one, other = (
            fit_labels(made, WEIGHTS, primary=primary, label_unit=made.units[primary]) for made in (plain, scaled)
        )
        assert np.abs(one - other).max() <= 1e-6


def test_margin_error_enters_with_the_margin_weight_only(world: TabularWorld, accept: Accept) -> None:
    """With r_phi = r + e for the margins the result is pi_ref exp((w.r + w_-k.e) / beta) / Z."""
    generator = torch.Generator().manual_seed(11)
    error = 0.3 * torch.randn(world.rewards.shape, generator=generator, dtype=torch.float64)
    error[..., 0] = 0
    expected = replace(world, rewards=world.rewards + error).optimum(WEIGHTS)
    hold(accept, "B7", fit_labels(world, WEIGHTS, margin_rewards=world.rewards + error), expected)
    assert np.abs(expected - world.optimum(WEIGHTS)).max() > 0.01


def test_an_error_of_the_primarys_own_reward_changes_no_bit(world: TabularWorld, accept: Accept) -> None:
    wrong = world.rewards.clone()
    wrong[..., 0] += 17 * torch.arange(NUM_RESPONSES)
    changed = fit_labels(world, WEIGHTS, margin_rewards=wrong) != fit_labels(world, WEIGHTS)
    accept("B7", "numbers that differ in a bit", np.count_nonzero(changed), at_most=0)


def test_value_of_a_margin_rises_with_its_weight(world: TabularWorld, accept: Accept) -> None:
    """The margin is subtracted in the loss and so rewarded in the policy; with the opposite reward it falls."""
    opposite = world.rewards * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    grid = (0.0, 0.2, 0.5, 0.8)
    rising, falling = (
        np.diff([world.value(fit_labels(world, (1 - w, w, 0.0), margin_rewards=margins), 1) for w in grid])
        for margins in (world.rewards, opposite)
    )
    accept("B6", "smallest rise of E[r_m] from one weight to the next", rising.min(), at_least=0.01)
    accept("B6", "smallest fall of E[r_m] where -r_m is the margin", -falling.max(), at_least=0.01)


def test_moving_weight_never_moves_values_against_it(world: TabularWorld, accept: Accept) -> None:
    """(w - w').(V(w) - V(w')) >= 0 for every two points of the front, here for trained ones."""
    grid = [(1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.4, 0.3, 0.3), (0.2, 0.2, 0.6), (0.1, 0.8, 0.1)]
    policies = {w: fit_labels(world, w) for w in grid}
    values = {w: np.array([world.value(policy, j) for j in range(NUM_OBJECTIVES)]) for w, policy in policies.items()}
    smallest = min(
        (np.array(first) - np.array(second)) @ (values[first] - values[second])
        for first, second in itertools.combinations(grid, 2)
    )
    accept("B5", "smallest (w - w').(V(w) - V(w')) of trained points", smallest, at_least=-1e-12)
