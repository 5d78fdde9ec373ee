"""The MODPO loss (Zhou et al., arXiv 2310.03708) and its relatives of the same margin.

With r~_j = r_j / s_j the rewards in their declared units, the optimum pi_w = pi_ref exp(w.r~ / beta) / Z satisfies,
for every primary objective k with w_k > 0,

    [r_k(chosen) - r_k(rejected)] / t_k = z = (s_k / (t_k w_k)) [ beta * Delta log(pi / pi_ref) - w_-k . Delta r~_-k ],

and labels of k that carry the reward r_k / t_k are Bernoulli(sigmoid(z)) under Bradley-Terry; hence -log sigmoid(z).
The margin is SUBTRACTED here, so the trained policy is REWARDED by + w_-k . r~_-k: every reward is higher-is-better.

t_k, the label unit, is 1 for labels of people, which are in raw units, and s_k for labels that modpo draws or computes.

    sigmoid     -log sigmoid(z)                                  the optimum above
    soft        -p log sigmoid(z) - (1-p) log sigmoid(-z)        the same, p = sigmoid(Delta r_k / t_k)
    regression  (beta Delta log(pi / pi_ref) - w . Delta r~)^2   the same, without labels and at w_k = 0 too
    hinge       max(0, 1 - z)                                    another optimum
    ipo         (z - 1/2)^2                                      another optimum
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from modpo.core.batch import PairLogps, PairRewards
from modpo.core.weights import check_weights

LossType = Literal["sigmoid", "soft", "regression", "hinge", "ipo"]
IPO_TARGET = 0.5


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What one Pareto point asks of the loss.

    Attributes:
        weights: K numbers on the simplex, in the order of the objectives.
        units: K positive numbers s_j, the size of one unit of each raw reward.
        primary: index k of the objective whose pairs label the loss, of positive weight; None for a regression only.
        beta: strength of staying near the reference, in declared reward units per nat.
        label_smoothing: eps of conservative DPO, for `sigmoid`: the loss of the other label gets the weight eps. The
            optimum's z then solves sigmoid(z) = (1 - eps) p + eps (1 - p): a shrunken gap.
        label_unit: t_k, the size in raw reward of what counts as one in the labels.
    """

    weights: tuple[float, ...]
    units: tuple[float, ...]
    primary: int | None
    beta: float
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0
    label_unit: float = 1.0

    def __post_init__(self) -> None:
        check_weights(self.weights, primary=self.primary)
        if self.primary is None and self.loss_type != "regression":
            raise ValueError(f"the {self.loss_type} loss needs a primary objective")
        if len(self.units) != len(self.weights):
            raise ValueError(f"{len(self.units)} units for {len(self.weights)} weights")
        if not all(0 < unit < float("inf") for unit in (*self.units, self.label_unit, self.beta)):
            raise ValueError(
                f"units and beta must be positive and finite, got {self.units}, {self.label_unit} and {self.beta}"
            )
        if not 0 <= self.label_smoothing < 0.5 or (self.label_smoothing and self.loss_type != "sigmoid"):
            raise ValueError(f"label smoothing is below 0.5 and for sigmoid, got {self.label_smoothing}")


@dataclass(frozen=True)
class PreferenceLoss:
    """Loss per pair (B,) with gradient, and what it judged (B,) without: z, or the residual of a regression."""

    per_pair: Tensor
    preference_logits: Tensor


def margin(margin_rewards: PairRewards, settings: LossSettings) -> Tensor:
    """w_-k . Delta r~_-k for each pair, (B,) float64: exactly 0 where the primary objective has all the weight.

    Without a primary objective all rewards are in it.
    """
    scale = _row([w / s for w, s in zip(settings.weights, settings.units, strict=True)], margin_rewards.gap)
    indices = torch.arange(len(settings.weights), device=scale.device)
    others = indices != (-1 if settings.primary is None else settings.primary)
    return (margin_rewards.gap * scale)[:, others].sum(-1)


def log_ratio_gap(policy: PairLogps, reference: PairLogps) -> Tensor:
    """Delta log(pi / pi_ref) of each pair, (B,).

    Each response is compared with its own reference first: at w = e_k and s_k = 1 all that follows is bit-equal to DPO.
    """
    return (policy.chosen - reference.chosen.detach()) - (policy.rejected - reference.rejected.detach())


def preference_logits(
    policy: PairLogps, reference: PairLogps, margin_rewards: PairRewards, settings: LossSettings
) -> Tensor:
    """z of the module's equation, (B,)."""
    assert settings.primary is not None, "without labels there is no label logit"
    scale = settings.units[settings.primary] / settings.label_unit / settings.weights[settings.primary]
    return scale * (settings.beta * log_ratio_gap(policy, reference) - margin(margin_rewards, settings).detach())


def modpo_loss(
    policy: PairLogps, reference: PairLogps, margin_rewards: PairRewards, settings: LossSettings
) -> PreferenceLoss:
    """The loss of `settings.loss_type` per pair.

    Gradient of `sigmoid`: dL/dlogp(chosen) = -(s_k beta / (t_k w_k)) sigmoid(-z), and the opposite for the rejected
    response. Only the policy's log-probabilities receive a gradient.

    Raises:
        ValueError: a margin reward is not finite, or has not one column per objective.
    """
    if margin_rewards.chosen.shape[-1] != len(settings.weights):
        raise ValueError(f"{margin_rewards.chosen.shape[-1]} reward columns for {len(settings.weights)} weights")
    if not bool(torch.isfinite(margin_rewards.gap).all()):
        raise ValueError("margin rewards must be finite: annotate again with a reward that is")
    if settings.loss_type == "regression":
        return _regression(policy, reference, margin_rewards, settings)
    z = preference_logits(policy, reference, margin_rewards, settings)
    return PreferenceLoss(per_pair=_of_logits(z, margin_rewards, settings), preference_logits=z.detach())


def _of_logits(z: Tensor, margin_rewards: PairRewards, settings: LossSettings) -> Tensor:
    if settings.loss_type == "hinge":
        return functional.relu(1 - z)
    if settings.loss_type == "ipo":
        return (z - IPO_TARGET) ** 2
    if settings.loss_type == "soft":
        assert settings.primary is not None
        probability = torch.sigmoid(margin_rewards.gap[:, settings.primary].detach() / settings.label_unit)
        return -probability * functional.logsigmoid(z) - (1 - probability) * functional.logsigmoid(-z)
    eps = settings.label_smoothing
    if eps == 0:
        return -functional.logsigmoid(z)
    return -(1 - eps) * functional.logsigmoid(z) - eps * functional.logsigmoid(-z)


def _regression(
    policy: PairLogps, reference: PairLogps, margin_rewards: PairRewards, settings: LossSettings
) -> PreferenceLoss:
    """Squared error of beta * Delta log(pi / pi_ref) against w . Delta r~, in declared units squared."""
    residual = settings.beta * log_ratio_gap(policy, reference) - margin(margin_rewards, settings).detach()
    return PreferenceLoss(per_pair=residual**2, preference_logits=residual.detach())


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)
