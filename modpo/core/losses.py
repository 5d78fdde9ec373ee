"""The MODPO loss (Zhou et al., arXiv 2310.03708).

With r~_j = r_j / s_j the rewards in their declared units, the optimum pi_w = pi_ref exp(w.r~ / beta) / Z satisfies,
for every primary objective k with w_k > 0,

    r_k(chosen) - r_k(rejected) = z = (s_k / w_k) [ beta * Delta log(pi / pi_ref) - w_-k . Delta r~_-k ],

and preference labels of k are Bernoulli(sigmoid(z)) under Bradley-Terry; hence the loss -log sigmoid(z).
The margin is SUBTRACTED here, so the trained policy is REWARDED by + w_-k . r~_-k: every reward is higher-is-better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.weights import check_weights


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What one Pareto point asks of the loss.

    Attributes:
        weights: K numbers on the simplex, in the order of the objectives.
        units: K positive numbers s_j, the size of one unit of each raw reward.
        primary: index k of the objective whose pairs label the loss; its weight must be positive.
        beta: strength of staying near the reference, in declared reward units per nat.
    """

    weights: tuple[float, ...]
    units: tuple[float, ...]
    primary: int
    beta: float

    def __post_init__(self) -> None:
        check_weights(self.weights, primary=self.primary)
        if len(self.units) != len(self.weights):
            raise ValueError(f"{len(self.units)} units for {len(self.weights)} weights")
        if not all(0 < unit < float("inf") for unit in self.units) or not 0 < self.beta < float("inf"):
            raise ValueError(f"units and beta must be positive and finite, got {self.units} and {self.beta}")


@dataclass(frozen=True)
class PreferenceLoss:
    """Loss per pair (B,) with gradient, and the preference logits z (B,) without."""

    per_pair: Tensor
    preference_logits: Tensor


def margin(margin_rewards: PairRewards, settings: LossSettings) -> Tensor:
    """w_-k . Delta r~_-k for each pair, (B,) float64: exactly 0 where the primary objective has all the weight."""
    scale = _row([w / s for w, s in zip(settings.weights, settings.units, strict=True)], margin_rewards.gap)
    others = torch.arange(len(settings.weights), device=scale.device) != settings.primary
    return (margin_rewards.gap * scale)[:, others].sum(-1)


def preference_logits(
    policy: PairLogps, reference: PairLogps, margin_rewards: PairRewards, settings: LossSettings
) -> Tensor:
    """z of the module's equation, (B,).

    Each response is compared with its own reference first: at w = e_k and s_k = 1 the value is bit-equal to DPO's.
    """
    log_ratio_gap = (policy.chosen - reference.chosen.detach()) - (policy.rejected - reference.rejected.detach())
    scale = settings.units[settings.primary] / settings.weights[settings.primary]
    return scale * (settings.beta * log_ratio_gap - margin(margin_rewards, settings).detach())


def modpo_loss(
    policy: PairLogps, reference: PairLogps, margin_rewards: PairRewards, settings: LossSettings
) -> PreferenceLoss:
    """-log sigmoid(z) per pair.

    Gradient: dL/dlogp(chosen) = -(s_k beta / w_k) sigmoid(-z), and the opposite for the rejected response. Only the
    policy's log-probabilities receive a gradient.

    Raises:
        ValueError: a margin reward is not finite, or has not one column per objective.
    """
    if margin_rewards.chosen.shape[-1] != len(settings.weights):
        raise ValueError(f"{margin_rewards.chosen.shape[-1]} reward columns for {len(settings.weights)} weights")
    if not bool(torch.isfinite(margin_rewards.gap).all()):
        raise ValueError("margin rewards must be finite: annotate again with a reward that is")
    z = preference_logits(policy, reference, margin_rewards, settings)
    return PreferenceLoss(per_pair=-functional.logsigmoid(z), preference_logits=z.detach())


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)
