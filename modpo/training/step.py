"""One micro-batch: forward, loss, metrics. The whole method is `preference_micro_batch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modpo.core.batch import PairLogps, PreferenceBatch
from modpo.core.losses import LossSettings, PreferenceLoss, modpo_loss
from modpo.core.trees import TreeBatch
from modpo.scoring import pair_logps


class TrainEngine(Protocol):
    """What a training needs of an engine; `engine.DeepSpeedEngine` is the one that users run."""

    world_size: int
    rank: int

    @property
    def device(self) -> torch.device: ...
    @property
    def module(self) -> torch.nn.Module: ...
    @property
    def model(self) -> torch.nn.Module: ...
    def micro_step(self, loss: Tensor, *, learning_rate: float) -> None: ...
    def grad_norm(self) -> float: ...
    def parameters(self) -> dict[str, Tensor]: ...
    def moments(self) -> dict[str, Tensor]: ...
    def load(self, parameters: dict[str, Tensor], moments: dict[str, Tensor], *, num_steps: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class MicroBatchResult:
    """A scalar loss with gradient, and metrics as detached scalars to be averaged over micro-batches and ranks."""

    loss: Tensor
    metrics: dict[str, Tensor]


MicroBatch = Callable[[torch.nn.Module, list[int]], MicroBatchResult]
"""Forward and loss of the rows with these indices; the loop knows nothing else of the data or the method."""


def preference_micro_batch(model: torch.nn.Module, batch: PreferenceBatch, settings: LossSettings) -> MicroBatchResult:
    """The MODPO step: one policy forward; reference and margin rewards come from the batch."""
    policy = pair_logps(model, batch.trees)
    loss = modpo_loss(policy, batch.reference, batch.margin_rewards, settings)
    return MicroBatchResult(loss.per_pair.mean(), preference_metrics(policy, batch.reference, loss, settings.beta))


def sft_micro_batch(model: torch.nn.Module, batch: TreeBatch) -> MicroBatchResult:
    """Supervised fine-tuning: mean negative log-probability of a response token."""
    loss = -model(batch).sum() / len(batch.targets)
    return MicroBatchResult(loss, {"loss": loss.detach()})


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
