"""Pairs for tests of the loss: one worked out by hand, or many of the size that language models give."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.losses import LossSettings, PreferenceLoss, modpo_loss

NUM_PAIRS = 257
DTYPES = (torch.float32, torch.float64)


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


def one_pair(
    point: LossSettings,
    *,
    log_ratios: tuple[float, float],
    reward_gap: Sequence[float],
    dtype: torch.dtype = torch.float64,
) -> PreferenceLoss:
    """The loss of one pair whose chosen and rejected responses have these log pi / pi_ref."""
    policy, reference = logps([log_ratios[0] - 5], [log_ratios[1] - 7], dtype), logps([-5], [-7], dtype)
    return modpo_loss(policy, reference, gaps(reward_gap), point)


class RandomPairs:
    """Reproducible pairs with everything of the size that language models give."""

    def __init__(self, num_objectives: int, *, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        reference = [-80 + 20 * normal(NUM_PAIRS) for _ in range(2)]
        policy = [logps + 3 * normal(NUM_PAIRS) for logps in reference]
        rewards = [normal(NUM_PAIRS, num_objectives) for _ in range(2)]
        self.reference = PairLogps(*(values.to(dtype) for values in reference))
        self.policy = PairLogps(*(values.to(dtype) for values in policy))
        self.rewards = PairRewards(*(values.to(dtype) for values in rewards))

    def loss(self, point: LossSettings, rewards: PairRewards | None = None) -> PreferenceLoss:
        return modpo_loss(self.policy, self.reference, rewards or self.rewards, point)
