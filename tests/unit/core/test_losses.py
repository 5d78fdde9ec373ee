"""The MODPO loss against numbers derived by hand, its gradient, and what it refuses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.losses import LossSettings, LossType, modpo_loss
from tests.acceptance.plugin import Accept
from tests.unit.core.loss_pairs import DTYPES, RandomPairs, gaps, logps, one_pair, settings


@pytest.mark.parametrize("dtype", DTYPES)
class TestByHand:
    def test_two_objectives_meet_at_zero(self, dtype: torch.dtype, accept: Accept) -> None:
        """z = (.1/.5)(2 - -1) - (1/.5)(.5 * .6) = .6 - .6 = 0, and -log sigmoid(0) = log 2."""
        loss = one_pair(settings([0.5, 0.5]), log_ratios=(2, -1), reward_gap=[0, 0.6], dtype=dtype)
        accept("A1", "|z - by hand|", abs(loss.preference_logits.item()), at_most=1e-6)
        accept("A1", "|loss - by hand|", abs(loss.per_pair.item() - 0.6931472), at_most=1e-6)

    def test_three_objectives(self, dtype: torch.dtype, accept: Accept) -> None:
        """z = (.1/.25) 3 - (1/.25)(.5 * .6 + .25 * -.2) = 1.2 - 4 * .25 = .2; log(1 + e^-.2) = .5981389."""
        loss = one_pair(settings([0.25, 0.5, 0.25]), log_ratios=(2, -1), reward_gap=[0, 0.6, -0.2], dtype=dtype)
        accept("A1", "|z - by hand|", abs(loss.preference_logits.item() - 0.2), at_most=1e-6)
        accept("A1", "|loss - by hand|", abs(loss.per_pair.item() - 0.5981389), at_most=1e-6)


def test_by_hand_with_gradient() -> None:
    """z = (.5 * 1 - .2 * 1)/.8 = .375; loss log(1 + e^-.375) = .52312; gradient -(.5/.8) sigmoid(-.375) = -.25458."""
    policy, reference = logps([-4.0], [-7.0]), logps([-5.0], [-7.0])
    policy.chosen.requires_grad_()
    loss = modpo_loss(policy, reference, gaps([0, 1]), settings([0.8, 0.2], beta=0.5))
    loss.per_pair.sum().backward()
    assert loss.preference_logits.item() == pytest.approx(0.375, abs=1e-12)
    assert loss.per_pair.item() == pytest.approx(0.52312, abs=5e-6)
    assert policy.chosen.grad is not None
    assert policy.chosen.grad.item() == pytest.approx(-0.25458, abs=5e-6)


def test_by_hand_plain_dpo() -> None:
    """All weight on the primary: z = .5 * 1, whatever the margin; log(1 + e^-.5) = .47408."""
    loss = one_pair(settings([1, 0], beta=0.5), log_ratios=(1, 0), reward_gap=[0, 1])
    assert loss.per_pair.item() == pytest.approx(0.47408, abs=5e-6)


def test_by_hand_in_units() -> None:
    """r~_2 = 4/4 = 1, so z = (s_1/w_1)(.5 * 1 - .2 * 1) = (2/.8) * .3 = .75: twice the value of unit rewards."""
    loss = one_pair(settings([0.8, 0.2], beta=0.5, units=[2, 4]), log_ratios=(1, 0), reward_gap=[0, 4])
    assert loss.preference_logits.item() == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize("primary", [0, 1])
def test_own_reward_of_the_primary_is_not_used(primary: int) -> None:
    pairs = RandomPairs(2)
    other = PairRewards(pairs.rewards.chosen.clone(), pairs.rewards.rejected)
    other.chosen[:, primary] += 17
    point = settings([0.4, 0.6], primary=primary)
    assert torch.equal(pairs.loss(point, rewards=other).per_pair, pairs.loss(point).per_pair)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("primary", [0, 1])
def test_gradient_is_the_closed_form(primary: int, dtype: torch.dtype, accept: Accept) -> None:
    """dL/dlogp(chosen) = -(s_k beta / w_k) sigmoid(-z), and the opposite for the rejected response."""
    pairs, weights, units = RandomPairs(2, dtype=dtype), [0.25, 0.75], [3.0, 0.5]
    policy = PairLogps(pairs.policy.chosen.requires_grad_(), pairs.policy.rejected.requires_grad_())
    loss = pairs.loss(settings(weights, primary=primary, units=units))
    loss.per_pair.sum().backward()
    z = loss.preference_logits.double().numpy()
    expected = -(units[primary] * 0.1 / weights[primary]) / (1 + np.exp(z))
    assert policy.chosen.grad is not None and policy.rejected.grad is not None
    error = np.abs(policy.chosen.grad.double().numpy() / expected - 1).max()
    accept("A6", "largest relative error of a gradient", error, at_most=1e-6)
    differing = (policy.rejected.grad != -policy.chosen.grad).sum().item()
    accept("A6", "gradients of the rejected response that are not the opposite", differing, at_most=0)


def test_only_the_policy_receives_a_gradient(accept: Accept) -> None:
    pairs = RandomPairs(2)
    constants = (pairs.reference.chosen, pairs.reference.rejected, pairs.rewards.chosen, pairs.rewards.rejected)
    for tensor in (*constants, pairs.policy.chosen):
        tensor.requires_grad_()
    losses: tuple[LossType, ...] = ("sigmoid", "soft", "regression", "hinge", "ipo")
    for loss_type in losses:
        point = LossSettings(weights=(0.5, 0.5), units=(1.0, 1.0), primary=0, beta=0.1, loss_type=loss_type)
        loss = pairs.loss(point)
        loss.per_pair.sum().backward()
        assert not loss.preference_logits.requires_grad
    assert pairs.policy.chosen.grad is not None
    reached = sum(tensor.grad is not None for tensor in constants)
    accept("A6", "tensors of reference and rewards that receive a gradient", reached, at_most=0)


def test_far_apart_logps_give_a_finite_loss() -> None:
    """At z = -4000 the loss is 4000 to rounding; a naive -log(sigmoid(z)) would be infinite."""
    loss = one_pair(settings([0.1, 0.9], beta=1.0), log_ratios=(-400, 0), reward_gap=[0, 0])
    assert loss.per_pair.item() == pytest.approx(4000)


class TestRefusals:
    @pytest.fixture
    def refused(self, accept: Accept) -> Callable[[Callable[[], object], str], None]:
        def hold(call: Callable[[], object], message: str) -> None:
            accept("A7", "unusable values that are taken, or refused in other words", _taken(call, message), at_most=0)

        return hold

    @pytest.mark.parametrize(
        ("weights", "primary", "message"),
        [
            ([0, 1], 0, "primary objective 0 has no positive weight"),
            ([1, 0], 2, "primary objective 2 has no positive weight"),
            ([1, 0], -1, "primary objective -1 has no positive weight"),
            ([1.2, -0.2], 0, "weights must be finite and not negative"),
            ([math.nan, 1], 1, "weights must be finite and not negative"),
            ([math.inf, 0], 0, "weights must be finite and not negative"),
            ([0.5, 0.4], 0, r"weights must sum to 1, got \(0.5, 0.4\) with the sum 0.9"),
            ([2, 2], 0, r"weights must sum to 1, got \(2, 2\) with the sum 4"),
            ([1], 0, "at least two objectives, got 1"),
        ],
    )
    def test_weights(self, weights: list[float], primary: int, message: str, refused: Callable[..., None]) -> None:
        refused(lambda: settings(weights, primary=primary), message)

    @pytest.mark.parametrize(
        ("beta", "units"), [(0, (1, 1)), (-1, (1, 1)), (math.nan, (1, 1)), (1, (0, 1)), (1, (1, math.inf))]
    )
    def test_beta_and_units(self, beta: float, units: tuple[float, ...], refused: Callable[..., None]) -> None:
        message = "units and beta must be positive and finite"
        refused(lambda: settings([0.5, 0.5], beta=beta, units=units), message)

    def test_another_number_of_units_than_of_weights(self, refused: Callable[..., None]) -> None:
        refused(lambda: settings([0.5, 0.5], units=[1, 1, 1]), "3 units for 2 weights")

    @pytest.mark.parametrize("loss_type", ["sigmoid", "soft", "hinge", "ipo"])
    def test_labels_without_a_primary_objective(self, loss_type: LossType, refused: Callable[..., None]) -> None:
        def without_primary() -> LossSettings:
            return LossSettings(weights=(0.5, 0.5), units=(1.0, 1.0), primary=None, beta=0.1, loss_type=loss_type)

        refused(without_primary, f"the {loss_type} loss needs a primary objective")

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_margin_rewards_that_are_not_finite(self, bad: float, refused: Callable[..., None]) -> None:
        point = settings([0.5, 0.5])
        refused(
            lambda: one_pair(point, log_ratios=(1, 0), reward_gap=[0, bad]),
            "margin rewards must be finite: annotate again with a reward that is",
        )

    def test_another_number_of_rewards_than_of_weights(self, refused: Callable[..., None]) -> None:
        point = settings([0.5, 0.5])
        refused(
            lambda: one_pair(point, log_ratios=(1, 0), reward_gap=[0, 1, 2]),
            "3 reward columns for 2 weights",
        )


def _taken(call: Callable[[], object], message: str) -> bool:
    """Whether a call raises no ValueError of this message."""
    try:
        call()
    except ValueError as error:
        return re.search(message, str(error)) is None
    return True
