"""The MODPO loss against numbers derived by hand, invariants of the method, and plain DPO."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.losses import LossSettings, PreferenceLoss, margin, modpo_loss

NUM_PAIRS = 257


def settings(
    weights: Sequence[float], *, primary: int = 0, beta: float = 0.1, units: Sequence[float] = ()
) -> LossSettings:
    return LossSettings(weights=tuple(weights), units=tuple(units) or (1.0,) * len(weights), primary=primary, beta=beta)


def logps(chosen: Sequence[float], rejected: Sequence[float], dtype: torch.dtype = torch.float64) -> PairLogps:
    return PairLogps(torch.tensor(chosen, dtype=dtype), torch.tensor(rejected, dtype=dtype))


def gaps(*rows: Sequence[float]) -> PairRewards:
    """Rewards whose chosen-minus-rejected differences are these rows (B, K)."""
    chosen = torch.tensor(rows, dtype=torch.float64)
    return PairRewards(chosen, torch.zeros_like(chosen))


def one_pair(settings: LossSettings, *, log_ratios: tuple[float, float], reward_gap: Sequence[float]) -> PreferenceLoss:
    """The loss of one pair whose chosen and rejected responses have these log pi / pi_ref."""
    policy, reference = logps([log_ratios[0] - 5], [log_ratios[1] - 7]), logps([-5], [-7])
    return modpo_loss(policy, reference, gaps(reward_gap), settings)


class RandomPairs:
    """Reproducible pairs with everything of the size that language models give."""

    def __init__(self, num_objectives: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.reference = PairLogps(-80 + 20 * normal(NUM_PAIRS), -80 + 20 * normal(NUM_PAIRS))
        self.policy = PairLogps(
            self.reference.chosen + 3 * normal(NUM_PAIRS), self.reference.rejected + 3 * normal(NUM_PAIRS)
        )
        self.rewards = PairRewards(normal(NUM_PAIRS, num_objectives), normal(NUM_PAIRS, num_objectives))

    def loss(self, settings: LossSettings, rewards: PairRewards | None = None) -> PreferenceLoss:
        return modpo_loss(self.policy, self.reference, rewards or self.rewards, settings)


def test_golden_two_objectives_meet_at_zero() -> None:
    """z = (.1/.5)(2 - -1) - (1/.5)(.5 * .6) = .6 - .6 = 0, and -log sigmoid(0) = log 2."""
    loss = one_pair(settings([0.5, 0.5]), log_ratios=(2, -1), reward_gap=[0, 0.6])
    assert loss.preference_logits.item() == pytest.approx(0, abs=1e-12)
    assert loss.per_pair.item() == pytest.approx(0.6931472, abs=1e-7)


def test_golden_three_objectives() -> None:
    """z = (.1/.25) 3 - (1/.25)(.5 * .6 + .25 * -.2) = 1.2 - 4 * .25 = .2; log(1 + e^-.2) = .5981389."""
    loss = one_pair(settings([0.25, 0.5, 0.25]), log_ratios=(2, -1), reward_gap=[0, 0.6, -0.2])
    assert loss.preference_logits.item() == pytest.approx(0.2, abs=1e-12)
    assert loss.per_pair.item() == pytest.approx(0.5981389, abs=1e-7)


def test_golden_with_gradient() -> None:
    """z = (.5 * 1 - .2 * 1)/.8 = .375; loss log(1 + e^-.375) = .52312; gradient -(.5/.8) sigmoid(-.375) = -.25458."""
    policy, reference = logps([-4.0], [-7.0]), logps([-5.0], [-7.0])
    policy.chosen.requires_grad_()
    loss = modpo_loss(policy, reference, gaps([0, 1]), settings([0.8, 0.2], beta=0.5))
    loss.per_pair.sum().backward()
    assert loss.preference_logits.item() == pytest.approx(0.375, abs=1e-12)
    assert loss.per_pair.item() == pytest.approx(0.52312, abs=5e-6)
    assert policy.chosen.grad is not None
    assert policy.chosen.grad.item() == pytest.approx(-0.25458, abs=5e-6)


def test_golden_plain_dpo() -> None:
    """All weight on the primary: z = .5 * 1, whatever the margin; log(1 + e^-.5) = .47408."""
    loss = one_pair(settings([1, 0], beta=0.5), log_ratios=(1, 0), reward_gap=[0, 1])
    assert loss.per_pair.item() == pytest.approx(0.47408, abs=5e-6)


def test_golden_units() -> None:
    """r~_2 = 4/4 = 1, so z = (s_1/w_1)(.5 * 1 - .2 * 1) = (2/.8) * .3 = .75: twice the value of unit rewards."""
    loss = one_pair(settings([0.8, 0.2], beta=0.5, units=[2, 4]), log_ratios=(1, 0), reward_gap=[0, 4])
    assert loss.preference_logits.item() == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("primary", [0, 1, 2])
def test_all_weight_on_primary_is_bit_equal_to_dpo(primary: int, dtype: torch.dtype) -> None:
    pairs = RandomPairs(3)
    policy = PairLogps(pairs.policy.chosen.to(dtype), pairs.policy.rejected.to(dtype))
    reference = PairLogps(pairs.reference.chosen.to(dtype), pairs.reference.rejected.to(dtype))
    weights = [float(j == primary) for j in range(3)]
    z = modpo_loss(policy, reference, pairs.rewards, settings(weights, primary=primary)).preference_logits
    dpo = 0.1 * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected))
    assert np.array_equal(z.numpy(), dpo.numpy())


def test_all_weight_on_primary_has_exactly_no_margin() -> None:
    assert torch.equal(margin(RandomPairs(3).rewards, settings([0, 1, 0], primary=1)), torch.zeros(NUM_PAIRS).double())


def test_agrees_with_dpo_in_trl_order() -> None:
    """TRL subtracts policy from policy first: another order of rounding, the same loss."""
    pairs = RandomPairs(2)
    trl = 0.1 * ((pairs.policy.chosen - pairs.policy.rejected) - (pairs.reference.chosen - pairs.reference.rejected))
    assert pairs.loss(settings([1, 0])).per_pair.numpy() == pytest.approx(np.log1p(np.exp(-trl.numpy())), abs=1e-12)


def test_third_objective_without_weight_changes_no_bit() -> None:
    pairs = RandomPairs(3)
    two = PairRewards(pairs.rewards.chosen[:, :2], pairs.rewards.rejected[:, :2])
    with_third = pairs.loss(settings([0.3, 0.7, 0.0]))
    without = pairs.loss(settings([0.3, 0.7]), rewards=two)
    assert torch.equal(with_third.per_pair, without.per_pair)


@pytest.mark.parametrize("shift", [1.0, 100.0, 1e4])
def test_prompt_only_shift_of_margin_rewards_cancels(shift: float) -> None:
    pairs = RandomPairs(2)
    by_prompt = shift * torch.linspace(-1, 1, NUM_PAIRS, dtype=torch.float64).unsqueeze(-1)
    shifted = PairRewards(pairs.rewards.chosen + by_prompt, pairs.rewards.rejected + by_prompt)
    point = settings([0.3, 0.7])
    assert pairs.loss(point, rewards=shifted).per_pair.numpy() == pytest.approx(
        pairs.loss(point).per_pair.numpy(), abs=1e-11 * (1 + shift)
    )


def test_swapping_chosen_and_rejected_negates_the_logit_exactly() -> None:
    pairs = RandomPairs(3)
    point = settings([0.2, 0.5, 0.3], primary=1)
    swapped = modpo_loss(
        PairLogps(pairs.policy.rejected, pairs.policy.chosen),
        PairLogps(pairs.reference.rejected, pairs.reference.chosen),
        PairRewards(pairs.rewards.rejected, pairs.rewards.chosen),
        point,
    )
    assert torch.equal(swapped.preference_logits, -pairs.loss(point).preference_logits)


def test_order_of_objectives_does_not_matter() -> None:
    pairs, order = RandomPairs(3), [2, 0, 1]
    permuted = PairRewards(pairs.rewards.chosen[:, order], pairs.rewards.rejected[:, order])
    straight = pairs.loss(settings([0.2, 0.5, 0.3], primary=1, units=[1, 2, 3]))
    other = pairs.loss(settings([0.3, 0.2, 0.5], primary=2, units=[3, 1, 2]), rewards=permuted)
    assert other.per_pair.numpy() == pytest.approx(straight.per_pair.numpy(), abs=1e-12)


def test_splitting_a_margin_in_two_equal_halves_changes_nothing() -> None:
    pairs = RandomPairs(2)
    twice = PairRewards(pairs.rewards.chosen[:, [0, 1, 1]], pairs.rewards.rejected[:, [0, 1, 1]])
    halves = pairs.loss(settings([0.4, 0.3, 0.3]), rewards=twice)
    assert halves.per_pair.numpy() == pytest.approx(pairs.loss(settings([0.4, 0.6])).per_pair.numpy(), abs=1e-12)


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_margin_in_another_unit_changes_no_bit(factor: float) -> None:
    """A reward in cents with the unit 100 is the reward in euros; powers of two are exact in binary."""
    pairs = RandomPairs(2)
    scale = torch.tensor([1.0, factor], dtype=torch.float64)
    rescaled = PairRewards(pairs.rewards.chosen * scale, pairs.rewards.rejected * scale)
    straight = pairs.loss(settings([0.3, 0.7], units=[1, 1]))
    assert torch.equal(
        pairs.loss(settings([0.3, 0.7], units=[1, factor]), rewards=rescaled).per_pair, straight.per_pair
    )


def test_logit_is_in_the_raw_unit_of_the_primary() -> None:
    """Labels follow the raw reward: where its unit is 8 times as large, the same policy explains 8 times the gap."""
    pairs = RandomPairs(2)
    small, large = (pairs.loss(settings([0.3, 0.7], units=[unit, 1])).preference_logits for unit in (1.0, 8.0))
    assert torch.equal(large, 8 * small)


@pytest.mark.parametrize("primary", [0, 1])
def test_own_reward_of_the_primary_is_not_used(primary: int) -> None:
    pairs = RandomPairs(2)
    other = PairRewards(pairs.rewards.chosen.clone(), pairs.rewards.rejected)
    other.chosen[:, primary] += 17
    point = settings([0.4, 0.6], primary=primary)
    assert torch.equal(pairs.loss(point, rewards=other).per_pair, pairs.loss(point).per_pair)


def test_gradient_is_the_closed_form() -> None:
    """dL/dlogp(chosen) = -(s_k beta / w_k) sigmoid(-z), and the opposite for the rejected response."""
    pairs = RandomPairs(2)
    policy = PairLogps(pairs.policy.chosen.requires_grad_(), pairs.policy.rejected.requires_grad_())
    loss = modpo_loss(policy, pairs.reference, pairs.rewards, settings([0.25, 0.75], units=[3, 1]))
    loss.per_pair.sum().backward()
    z = loss.preference_logits.numpy()
    expected = -(3 * 0.1 / 0.25) / (1 + np.exp(z))
    assert policy.chosen.grad is not None and policy.rejected.grad is not None
    assert policy.chosen.grad.numpy() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(policy.rejected.grad, -policy.chosen.grad)


def test_only_the_policy_receives_a_gradient() -> None:
    pairs = RandomPairs(2)
    constants = (pairs.reference.chosen, pairs.reference.rejected, pairs.rewards.chosen, pairs.rewards.rejected)
    policy = PairLogps(pairs.policy.chosen.clone().requires_grad_(), pairs.policy.rejected.clone())
    for tensor in constants:
        tensor.requires_grad_()
    loss = modpo_loss(policy, pairs.reference, pairs.rewards, settings([0.5, 0.5]))
    loss.per_pair.sum().backward()
    assert policy.chosen.grad is not None
    assert [tensor.grad for tensor in constants] == [None] * 4
    assert not loss.preference_logits.requires_grad


def test_far_apart_logps_give_a_finite_loss() -> None:
    """At z = -4000 the loss is 4000 to rounding; a naive -log(sigmoid(z)) would be infinite."""
    loss = one_pair(settings([0.1, 0.9], beta=1.0), log_ratios=(-400, 0), reward_gap=[0, 0])
    assert loss.per_pair.item() == pytest.approx(4000)


@pytest.mark.parametrize(
    ("weights", "primary", "message"),
    [
        ([0, 1], 0, "primary objective 0 has no positive weight"),
        ([1, 0], 2, "primary objective 2 has no positive weight"),
        ([1, 0], -1, "primary objective -1 has no positive weight"),
        ([1.2, -0.2], 0, "weights must be finite and not negative"),
        ([math.nan, 1], 1, "weights must be finite and not negative"),
        ([0.5, 0.4], 0, r"weights must sum to 1, got \(0.5, 0.4\) with the sum 0.9"),
        ([1], 0, "at least two objectives, got 1"),
    ],
)
def test_weights_that_the_loss_cannot_use_are_refused(weights: list[float], primary: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(weights, primary=primary)


@pytest.mark.parametrize(
    ("beta", "units"), [(0, (1, 1)), (-1, (1, 1)), (math.nan, (1, 1)), (1, (0, 1)), (1, (1, math.inf))]
)
def test_beta_and_units_must_be_positive_and_finite(beta: float, units: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="units and beta must be positive and finite"):
        settings([0.5, 0.5], beta=beta, units=units)


def test_as_many_units_as_weights() -> None:
    with pytest.raises(ValueError, match="3 units for 2 weights"):
        settings([0.5, 0.5], units=[1, 1, 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_margin_rewards_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="margin rewards must be finite"):
        one_pair(settings([0.5, 0.5]), log_ratios=(1, 0), reward_gap=[0, bad])


def test_as_many_reward_columns_as_weights() -> None:
    with pytest.raises(ValueError, match="3 reward columns for 2 weights"):
        one_pair(settings([0.5, 0.5]), log_ratios=(1, 0), reward_gap=[0, 1, 2])
