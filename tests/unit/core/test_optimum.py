"""The loss leads to the optimum it promises: a softmax table is fitted on the exact population of labels.

X prompts, Y responses, K objectives. Every ordered pair (y, y') of a prompt enters with the probability that
Bradley-Terry prefers y under the RAW reward of the primary objective, so there is no sampling error, and the
minimiser must be pi_ref exp(w.r~ / beta) / Z (method, equation 5), where r~_j = r_j / s_j.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.losses import LossSettings, LossType, modpo_loss
from modpo.core.reward_units import fit_unit

NUM_PROMPTS, NUM_RESPONSES, NUM_OBJECTIVES = 3, 5, 3
BETA = 0.3
Table = NDArray[np.float64]


@dataclass(frozen=True)
class TabularWorld:
    """Reference (X, Y) log-probabilities and raw rewards (X, Y, K) with their units."""

    reference: torch.Tensor
    rewards: torch.Tensor
    units: tuple[float, ...] = (1.0,) * NUM_OBJECTIVES

    def optimum(self, weights: tuple[float, ...]) -> Table:
        """Equation 5, written out in probabilities."""
        reward = (self.rewards.numpy() / np.array(self.units)) @ np.array(weights)
        unnormalised = np.exp(self.reference.numpy()) * np.exp(reward / BETA)
        return unnormalised / unnormalised.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def world() -> TabularWorld:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    reference = torch.log_softmax(normal(NUM_PROMPTS, NUM_RESPONSES), -1)
    return TabularWorld(reference, 0.7 * normal(NUM_PROMPTS, NUM_RESPONSES, NUM_OBJECTIVES))


def fit(
    world: TabularWorld,
    weights: tuple[float, ...],
    *,
    primary: int | None,
    margin_rewards: torch.Tensor | None = None,
    hard_labels: bool = False,
    steps: int = 400,
    loss_type: LossType = "sigmoid",
    label_unit: float = 1.0,
) -> Table:
    """Policy (X, Y) that minimises the real loss over all ordered pairs, each as often as Bradley-Terry has it.

    Labels are draws of the primary's reward in the unit `label_unit`; losses without labels see all pairs alike.
    """
    rows = list(itertools.product(range(NUM_PROMPTS), itertools.permutations(range(NUM_RESPONSES), 2)))
    x, chosen, rejected = (
        torch.tensor(column) for column in zip(*((x, y, other) for x, (y, other) in rows), strict=True)
    )
    probability = torch.ones(len(rows), dtype=torch.float64)
    if loss_type not in ("soft", "regression"):
        gap = world.rewards[x, chosen, primary] - world.rewards[x, rejected, primary]
        probability = (gap > 0).double() if hard_labels else torch.sigmoid(gap / label_unit)
    margins = world.rewards if margin_rewards is None else margin_rewards
    point = LossSettings(
        weights=weights, units=world.units, primary=primary, beta=BETA, loss_type=loss_type, label_unit=label_unit
    )
    table = torch.zeros_like(world.reference, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [table], max_iter=steps, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        policy = torch.log_softmax(world.reference + table, -1)
        loss = modpo_loss(
            PairLogps(policy[x, chosen], policy[x, rejected]),
            PairLogps(world.reference[x, chosen], world.reference[x, rejected]),
            PairRewards(margins[x, chosen], margins[x, rejected]),
            point,
        )
        total = (probability * loss.per_pair).sum()
        total.backward()
        return total

    optimiser.step(closure)
    return np.asarray(torch.softmax(world.reference + table, -1).detach().numpy())


def expected_reward(world: TabularWorld, policy: Table, objective: int) -> float:
    return float((policy * world.rewards[..., objective].numpy()).sum(-1).mean())


@pytest.mark.parametrize("weights", [(0.2, 0.5, 0.3), (0.6, 0.1, 0.3), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0)])
def test_minimiser_is_the_exact_optimum(world: TabularWorld, weights: tuple[float, ...]) -> None:
    policy, optimum = fit(world, weights, primary=0), world.optimum(weights)
    assert np.abs(policy - optimum).max() <= 1e-6
    assert np.abs(np.log(policy) - np.log(optimum)).max() <= 1e-4


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_every_primary_gives_the_same_policy(world: TabularWorld, primary: int) -> None:
    weights = (0.2, 0.5, 0.3)
    assert np.abs(fit(world, weights, primary=primary) - world.optimum(weights)).max() <= 1e-6


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_every_primary_gives_the_same_policy_in_declared_units(world: TabularWorld, primary: int) -> None:
    """Forgetting s_k would scale the logit of a primary whose unit is not 1, and move the optimum."""
    weights, scaled = (0.2, 0.5, 0.3), replace(world, units=(2.0, 0.5, 3.0))
    assert np.abs(fit(scaled, weights, primary=primary) - scaled.optimum(weights)).max() <= 1e-6


@pytest.mark.parametrize("primary", [0, 1])
def test_rescaling_a_reward_and_its_unit_changes_nothing(world: TabularWorld, primary: int) -> None:
    """The labels of a rescaled primary are other draws (its raw gaps are larger), and still lead to the same policy."""
    weights, scale = (0.4, 0.4, 0.2), torch.tensor([2.5, 1.0, 1.0], dtype=torch.float64)
    rescaled = TabularWorld(world.reference, world.rewards * scale, units=(2.5, 1.0, 1.0))
    assert np.abs(fit(rescaled, weights, primary=primary) - fit(world, weights, primary=primary)).max() <= 1e-6


SCALED = (2.0, 0.5, 3.0)


@pytest.mark.parametrize("primary", [0, 1, 2])
@pytest.mark.parametrize("loss_type", ["sigmoid", "soft", "regression"])
def test_three_losses_share_the_optimum(world: TabularWorld, loss_type: LossType, primary: int) -> None:
    """Whatever the units and the primary objective; soft and drawn labels are in the declared unit of the primary."""
    weights, scaled = (0.2, 0.5, 0.3), replace(world, units=SCALED)
    policy = fit(
        scaled,
        weights,
        primary=None if loss_type == "regression" else primary,
        loss_type=loss_type,
        label_unit=1.0 if loss_type == "regression" else SCALED[primary],
    )
    assert np.abs(policy - scaled.optimum(weights)).max() <= 1e-6


@pytest.mark.parametrize("loss_type", ["hinge", "ipo"])
def test_two_losses_have_another_optimum(world: TabularWorld, loss_type: LossType) -> None:
    """Not by lack of training: their own minimiser lies elsewhere, far beyond what any tolerance here allows."""
    weights = (0.4, 0.3, 0.3)
    policy = fit(world, weights, primary=0, loss_type=loss_type)
    assert np.abs(policy - world.optimum(weights)).max() > 0.01


def test_regression_needs_no_weight_on_what_has_labels(world: TabularWorld) -> None:
    weights = (0.0, 0.4, 0.6)
    policy = fit(world, weights, primary=None, loss_type="regression")
    assert np.abs(policy - world.optimum(weights)).max() <= 1e-6


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

    weights, scale = (0.2, 0.5, 0.3), torch.tensor([1.0, factor, 1.0], dtype=torch.float64)
    plain, scaled = normalised(world.rewards), normalised(world.rewards * scale)
    for primary in (0, 1):
        one, other = (
            fit(made, weights, primary=primary, loss_type="soft", label_unit=made.units[primary])
            for made in (plain, scaled)
        )
        assert np.abs(one - other).max() <= 1e-6


def test_margin_error_enters_with_the_margin_weight_only(world: TabularWorld) -> None:
    """With r_phi = r + e for the margins the result is pi_ref exp((w.r + w_-k.e) / beta) / Z."""
    weights = (0.2, 0.5, 0.3)
    generator = torch.Generator().manual_seed(11)
    error = 0.3 * torch.randn(world.rewards.shape, generator=generator, dtype=torch.float64)
    error[..., 0] = 0
    expected = replace(world, rewards=world.rewards + error).optimum(weights)
    policy = fit(world, weights, primary=0, margin_rewards=world.rewards + error)
    assert np.abs(policy - expected).max() <= 1e-6


def test_value_of_a_margin_rises_with_its_weight(world: TabularWorld) -> None:
    """The margin is subtracted in the loss and so rewarded in the policy; with the opposite reward it falls."""
    values = [expected_reward(world, fit(world, (1 - w, w, 0.0), primary=0), 1) for w in (0.0, 0.2, 0.5, 0.8)]
    assert values == sorted(values) and values[-1] - values[0] > 0.1
    opposite = world.rewards * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    away = [
        expected_reward(world, fit(world, (1 - w, w, 0.0), primary=0, margin_rewards=opposite), 1)
        for w in (0.0, 0.2, 0.5, 0.8)
    ]
    assert away == sorted(away, reverse=True) and away[0] - away[-1] > 0.1


def test_moving_weight_never_moves_values_against_it(world: TabularWorld) -> None:
    """(w - w').(V(w) - V(w')) >= 0 for every two points of the front, here for trained ones."""
    grid = [(1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.4, 0.3, 0.3), (0.2, 0.2, 0.6), (0.1, 0.8, 0.1)]
    values = {
        w: np.array([expected_reward(world, fit(world, w, primary=0), j) for j in range(NUM_OBJECTIVES)]) for w in grid
    }
    for first, second in itertools.combinations(grid, 2):
        assert (np.array(first) - np.array(second)) @ (values[first] - values[second]) >= -1e-9


def test_labels_by_argmax_move_the_optimum_the_wrong_way(world: TabularWorld) -> None:
    """Why modpo samples labels.

    With opposed objectives and most weight on the second, deterministic labels of the first give a policy that is
    WORSE on the second than the reference, where the optimum is better.
    """
    opposed = world.rewards.clone()
    opposed[..., 1] = -opposed[..., 0]
    conflict, weights = replace(world, rewards=opposed), (0.2, 0.8, 0.0)
    reference = expected_reward(conflict, np.exp(world.reference.numpy()), 1)
    assert expected_reward(conflict, conflict.optimum(weights), 1) > reference + 0.1
    assert expected_reward(conflict, fit(conflict, weights, primary=0), 1) > reference + 0.1
    assert expected_reward(conflict, fit(conflict, weights, primary=0, hard_labels=True, steps=40), 1) < reference - 0.1
