"""What leaves the MODPO loss as it is (factors, shifts, order, objectives without weight), and plain DPO's case."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.losses import LossSettings, margin, modpo_loss
from tests.acceptance.plugin import Accept
from tests.unit.core.loss_pairs import DTYPES, NUM_PAIRS, RandomPairs, settings

BITS = "numbers that differ in a bit"
BETA = 0.1
POWERS_OF_TWO = (0.25, 8.0)
OTHER_FACTORS = (0.7, 3.0, 10.0)


def differing(found: Tensor, expected: Tensor) -> int:
    return int((found.double() != expected.double()).sum())


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs()).max())


def scaled(rewards: PairRewards, columns: Tensor) -> PairRewards:
    factors = columns.to(rewards.chosen.dtype)
    return PairRewards(rewards.chosen * factors, rewards.rejected * factors)


class TestPlainDpo:
    """All weight on one objective, with margin rewards of any size: A2."""

    @pytest.mark.parametrize("size", [1.0, 1e6])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("primary", [0, 1, 2])
    def test_bit_equal_in_the_order_of_trl(self, primary: int, dtype: torch.dtype, size: float, accept: Accept) -> None:
        """TRL 1.x: beta * ((policy - reference of chosen) - (policy - reference of rejected))."""
        pairs, weights = RandomPairs(3, dtype=dtype), [float(j == primary) for j in range(3)]
        rewards = scaled(pairs.rewards, torch.full((3,), size))
        loss = pairs.loss(settings(weights, primary=primary, beta=BETA), rewards)
        policy, reference = pairs.policy, pairs.reference
        dpo = BETA * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected))
        accept("A2", f"{BITS}, logit", differing(loss.preference_logits, dpo), at_most=0)
        expected = -functional.logsigmoid(dpo.double())
        accept("A2", f"{BITS}, loss", differing(loss.per_pair, expected), at_most=0)

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    def test_near_in_two_other_orders_of_rounding(self, dtype: torch.dtype, bound: float, accept: Accept) -> None:
        """Each response's reward by itself, as the paper writes it; or policy from policy first, as TRL once did."""
        pairs = RandomPairs(2, dtype=dtype)
        z = pairs.loss(settings([1, 0], beta=BETA)).preference_logits
        policy, reference = pairs.policy, pairs.reference
        by_response = BETA * (policy.chosen - reference.chosen) - BETA * (policy.rejected - reference.rejected)
        by_model = BETA * ((policy.chosen - policy.rejected) - (reference.chosen - reference.rejected))
        name = str(dtype).removeprefix("torch.")
        accept("A2", f"max |z - reward by reward|, {name}", (z - by_response).abs().max().item(), at_most=bound)
        accept("A2", f"max |z - model by model|, {name}", (z - by_model).abs().max().item(), at_most=bound)

    def test_has_exactly_no_margin(self) -> None:
        found = margin(RandomPairs(3).rewards, settings([0, 1, 0], primary=1))
        assert torch.equal(found, torch.zeros(NUM_PAIRS).double())


class TestCommonFactors:
    """Weights sum to 1 here, so their common factor is one of all units, against beta: A3."""

    def point(self, factor: float) -> LossSettings:
        units = [factor * unit for unit in (3.0, 0.5, 2.0)]
        return settings([0.3, 0.5, 0.2], units=units, beta=BETA / factor)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("factor", POWERS_OF_TWO)
    def test_a_power_of_two_in_all_units_and_beta_changes_no_bit(
        self, factor: float, dtype: torch.dtype, accept: Accept
    ) -> None:
        pairs = RandomPairs(3, dtype=dtype)
        found, expected = (pairs.loss(self.point(c)).per_pair for c in (factor, 1.0))
        accept("A3", BITS, differing(found, expected), at_most=0)

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    @pytest.mark.parametrize("factor", OTHER_FACTORS)
    def test_another_factor_in_all_units_and_beta_changes_only_roundings(
        self, factor: float, dtype: torch.dtype, bound: float, accept: Accept
    ) -> None:
        pairs = RandomPairs(3, dtype=dtype)
        found, expected = (pairs.loss(self.point(c)).per_pair for c in (factor, 1.0))
        name = str(dtype).removeprefix("torch.")
        accept("A3", f"largest relative change of a loss, {name}", relative(found, expected), at_most=bound)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("factor", POWERS_OF_TWO)
    def test_a_margin_in_another_unit_changes_no_bit(self, factor: float, dtype: torch.dtype, accept: Accept) -> None:
        """A reward in cents with the unit 100 is the reward in euros; powers of two are exact in binary."""
        pairs = RandomPairs(2, dtype=dtype)
        rewards = scaled(pairs.rewards, torch.tensor([1.0, factor]))
        found = pairs.loss(settings([0.3, 0.7], units=[1, factor]), rewards).per_pair
        accept("A3", BITS, differing(found, pairs.loss(settings([0.3, 0.7])).per_pair), at_most=0)

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    @pytest.mark.parametrize("factor", OTHER_FACTORS)
    def test_a_margin_in_any_other_unit_changes_only_roundings(
        self, factor: float, dtype: torch.dtype, bound: float, accept: Accept
    ) -> None:
        pairs = RandomPairs(2, dtype=dtype)
        rewards = scaled(pairs.rewards, torch.tensor([1.0, factor], dtype=torch.float64))
        found = pairs.loss(settings([0.3, 0.7], units=[1, factor]), rewards).per_pair
        expected = pairs.loss(settings([0.3, 0.7])).per_pair
        name = str(dtype).removeprefix("torch.")
        accept("A3", f"largest relative change of a loss, {name}", relative(found, expected), at_most=bound)

    def test_logit_is_in_the_raw_unit_of_the_primary(self) -> None:
        """Labels follow the raw reward: where its unit is 8 times another, the same policy explains 8 times the gap."""
        pairs = RandomPairs(2)
        small, large = (pairs.loss(settings([0.3, 0.7], units=[unit, 1])).preference_logits for unit in (1.0, 8.0))
        assert torch.equal(large, 8 * small)


class TestPromptOnlyShifts:
    """r(x, y) + f(x) for the margin, with |f| up to 10,000: A4."""

    point = settings([0.3, 0.7])

    def shifted(self, pairs: RandomPairs, by_prompt: Tensor) -> PairRewards:
        column = by_prompt.to(pairs.rewards.chosen.dtype).unsqueeze(-1)
        return PairRewards(pairs.rewards.chosen + column, pairs.rewards.rejected + column)

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
    @pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
    def test_cancel_up_to_the_rounding_of_the_shifted_rewards(
        self, size: float, dtype: torch.dtype, bound: float, accept: Accept
    ) -> None:
        """Rewards that were stored in float32 have lost digits before anything can be subtracted."""
        pairs = RandomPairs(2, dtype=dtype)
        by_prompt = size * torch.linspace(-1, 1, NUM_PAIRS, dtype=torch.float64)
        change = pairs.loss(self.point, self.shifted(pairs, by_prompt)).per_pair - pairs.loss(self.point).per_pair
        name = str(dtype).removeprefix("torch.")
        error = (change.abs() / (1 + by_prompt.abs())).max().item()
        accept("A4", f"largest change of a loss over 1 + |f|, {name}", error, at_most=bound)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_change_no_bit_where_the_shifted_rewards_are_exact(self, dtype: torch.dtype, accept: Accept) -> None:
        """Rewards in steps of 1/128 and whole shifts up to 10,000 are exact in float32: nothing is lost after them."""
        pairs = RandomPairs(2, dtype=dtype)
        pairs.rewards = PairRewards(*((r * 128).round() / 128 for r in (pairs.rewards.chosen, pairs.rewards.rejected)))
        by_prompt = torch.linspace(-1e4, 1e4, NUM_PAIRS, dtype=torch.float64).round()
        found = pairs.loss(self.point, self.shifted(pairs, by_prompt)).per_pair
        accept("A4", BITS, differing(found, pairs.loss(self.point).per_pair), at_most=0)

    def test_gaps_are_in_float64_whatever_the_rewards_are_in(self) -> None:
        assert RandomPairs(2, dtype=torch.float32).rewards.gap.dtype == torch.float64


class TestSwapsAndOrder:
    """A5."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_swapping_chosen_and_rejected_negates_the_logit_exactly(self, dtype: torch.dtype, accept: Accept) -> None:
        pairs = RandomPairs(3, dtype=dtype)
        point = settings([0.2, 0.5, 0.3], primary=1)
        swapped = modpo_loss(
            PairLogps(pairs.policy.rejected, pairs.policy.chosen),
            PairLogps(pairs.reference.rejected, pairs.reference.chosen),
            PairRewards(pairs.rewards.rejected, pairs.rewards.chosen),
            point,
        )
        expected = -pairs.loss(point).preference_logits
        accept("A5", f"{BITS} after a swap", differing(swapped.preference_logits, expected), at_most=0)

    def test_order_of_objectives_does_not_matter(self, accept: Accept) -> None:
        pairs, weights, units = RandomPairs(3), [0.2, 0.5, 0.3], [1.0, 2.0, 3.0]
        straight = pairs.loss(settings(weights, primary=1, units=units)).per_pair
        for order in map(list, itertools.permutations(range(3))):
            permuted = PairRewards(pairs.rewards.chosen[:, order], pairs.rewards.rejected[:, order])
            point = settings([weights[j] for j in order], primary=order.index(1), units=[units[j] for j in order])
            error = (pairs.loss(point, permuted).per_pair - straight).abs().max().item()
            accept("A5", "largest change of a loss by order or duplicates", error, at_most=1e-12)

    def test_splitting_a_margin_in_two_equal_halves_changes_nothing(self, accept: Accept) -> None:
        pairs = RandomPairs(2)
        twice = PairRewards(pairs.rewards.chosen[:, [0, 1, 1]], pairs.rewards.rejected[:, [0, 1, 1]])
        halves = pairs.loss(settings([0.4, 0.3, 0.3]), twice).per_pair
        error = (halves - pairs.loss(settings([0.4, 0.6])).per_pair).abs().max().item()
        accept("A5", "largest change of a loss by order or duplicates", error, at_most=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_objective_without_weight_changes_no_bit(place: int, dtype: torch.dtype, accept: Accept) -> None:
    """Wherever it stands, and whatever its reward: A8."""
    pairs = RandomPairs(3, dtype=dtype)
    others = [j for j in range(3) if j != place]
    two = PairRewards(pairs.rewards.chosen[:, others], pairs.rewards.rejected[:, others])
    weights = np.insert([0.3, 0.7], place, 0.0).tolist()
    pairs.rewards.chosen[:, place] *= 1e6
    with_third = pairs.loss(settings(weights, primary=others[0]))
    without = pairs.loss(settings([0.3, 0.7]), two)
    accept("A8", BITS, differing(with_third.per_pair, without.per_pair), at_most=0)
