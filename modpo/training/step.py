"""One micro-batch: forward, loss, metrics. The whole method is `preference_micro_batch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modpo.core.batch import PairLogps, PreferenceBatch
from modpo.core.flops import MatmulShape, row_workload
from modpo.core.losses import LossSettings, PreferenceLoss, modpo_loss
from modpo.core.trees import TreeBatch
from modpo.core.workload import UNKNOWN_WORKLOAD, Workload
from modpo.scoring import pair_logps
from modpo.training.global_batch import GlobalBatch


class TrainEngine(Protocol):
    """What a training needs of an engine; `engine.DeepSpeedEngine` is the one that users run."""

    world_size: int
    rank: int
    batch: GlobalBatch

    @property
    def device(self) -> torch.device: ...
    @property
    def module(self) -> torch.nn.Module: ...
    @property
    def model(self) -> torch.nn.Module: ...
    def micro_step(self, loss: Tensor, *, learning_rate: float) -> None: ...
    def grad_norm(self) -> float: ...
    def was_step_skipped(self) -> bool: ...
    def had_nan_gradient(self) -> bool: ...
    def parameters(self) -> dict[str, Tensor]: ...
    def moments(self) -> dict[str, Tensor]: ...
    def load(self, parameters: dict[str, Tensor], moments: dict[str, Tensor], *, num_steps: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class MicroBatchResult:
    """A scalar loss with gradient, and what is to be reported of it.

    Attributes:
        metrics: detached scalars, to be averaged over micro-batches and ranks.
        workload: to be summed over them.
        row_losses: (B,) detached, of each row, where rows have losses of their own.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    workload: Workload = UNKNOWN_WORKLOAD
    row_losses: Tensor | None = None


MicroBatch = Callable[[torch.nn.Module, list[int]], MicroBatchResult]
"""Forward and loss of the rows with these indices; the loop knows nothing else of the data or the method."""


def preference_micro_batch(
    model: torch.nn.Module, batch: PreferenceBatch, settings: LossSettings, shape: MatmulShape | None = None
) -> MicroBatchResult:
    """The MODPO step: one policy forward; reference and margin rewards come from the batch.

    Args:
        shape: of the policy, by which its operations are counted.
    """
    return preference_result(pair_logps(model, batch.trees), batch, settings, shape)


def preference_result(
    policy: PairLogps, batch: PreferenceBatch, settings: LossSettings, shape: MatmulShape | None
) -> MicroBatchResult:
    """Loss, metrics and workload of a policy's log-probabilities of a batch."""
    loss = modpo_loss(policy, batch.reference, batch.margin_rewards, settings)
    metrics = preference_metrics(policy, batch.reference, loss, settings.beta)
    return MicroBatchResult(
        loss.per_pair.mean(), metrics, _workload(batch.trees, shape), row_losses=loss.per_pair.detach()
    )


def sft_micro_batch(model: torch.nn.Module, batch: TreeBatch, shape: MatmulShape | None = None) -> MicroBatchResult:
    """Supervised fine-tuning: mean negative log-probability of a response token."""
    row_losses = -model(batch)
    loss = row_losses.sum() / len(batch.targets)
    return MicroBatchResult(loss, {"loss": loss.detach()}, _workload(batch, shape), row_losses=row_losses.detach())


def _workload(batch: TreeBatch, shape: MatmulShape | None) -> Workload:
    return row_workload(batch.layout, len(batch.targets), shape)


def preference_metrics(policy: PairLogps, reference: PairLogps, loss: PreferenceLoss, beta: float) -> dict[str, Tensor]:
    """TRL's keys. Only comparable between runs of the same weights and beta."""
    chosen = beta * (policy.chosen.detach() - reference.chosen)
    rejected = beta * (policy.rejected.detach() - reference.rejected)
    return {
        "loss": loss.per_pair.detach().mean(),
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).double().mean(),
        "logps/chosen": policy.chosen.detach().mean(),
        "logps/rejected": policy.rejected.detach().mean(),
    }
