"""The whole training written out on torch alone, from the paper's equation: what engine and loop must repeat.

In float64 for a float32 training, sequence by sequence with full logits: another route all the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from modpo.config import SweepConfig
from modpo.core.batch import SequenceBatch
from modpo.models import attach_adapter
from modpo.scoring import ResponseModel, unpacked
from modpo.training.schedule import SampleOrder, learning_rate
from tests.deepspeed.trainings import BETA, DEVICE, GLOBAL_BATCH_SIZE, annotated_pairs, point_work


@dataclass(frozen=True)
class BareOutcome:
    """Each step's loss and gradient norm before clipping, and the float32 weights at the end, by name."""

    losses: list[float]
    grad_norms: list[float]
    parameters: dict[str, Tensor]


def bare_training(run_dir: Path, config: SweepConfig, *, weights: tuple[float, ...] = (0.5, 0.5)) -> BareOutcome:
    """One worker, one micro-batch a step, the first objective primary; AdamW on masters of the weights."""
    is_exact = config.model.dtype == "float32"
    model = AutoModelForCausalLM.from_pretrained(run_dir / "start", dtype=getattr(torch, config.model.dtype))
    model = model.to(DEVICE).train()
    policy = attach_adapter(model, config.model.lora, seed=0) if config.model.lora else model
    # What float32 rounds away in twenty steps is as much as the tolerance of those who compare: so float64 here.
    policy = policy.double() if is_exact else policy
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    kept = torch.float64 if is_exact else torch.float32
    masters = {name: parameter.detach().to(kept, copy=True).requires_grad_() for name, parameter in trained.items()}
    rows = ResponseModel(policy, longest=config.longest_sequence)
    training = config.training
    optimizer = torch.optim.AdamW(masters.values(), betas=(0.9, 0.999), weight_decay=training.weight_decay)
    data = annotated_pairs(run_dir, point_work(run_dir, config, weights=weights))
    order = SampleOrder(len(data), seed=0)
    outcome = BareOutcome([], [], masters)
    assert training.max_steps is not None
    for step in range(training.max_steps):
        batch = data.batch(order.indices(step * GLOBAL_BATCH_SIZE, GLOBAL_BATCH_SIZE), DEVICE)
        # bfloat16 rounds otherwise in another layout, by far more than the training itself may differ.
        logps = _summed_logps(policy, unpacked(batch.trees)) if is_exact else rows(batch.trees)
        chosen, rejected = logps[0::2] - batch.reference.chosen, logps[1::2] - batch.reference.rejected
        margin = weights[1] * (batch.margin_rewards.chosen - batch.margin_rewards.rejected)[:, 1]
        loss = -functional.logsigmoid((BETA * (chosen - rejected) - margin) / weights[0]).mean()
        policy.zero_grad()
        loss.backward()
        for name, master in masters.items():
            master.grad = trained[name].grad.to(kept)
        outcome.losses.append(loss.item())
        outcome.grad_norms.append(torch.nn.utils.clip_grad_norm_(masters.values(), training.max_grad_norm).item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step=step, num_steps=training.max_steps)
        optimizer.step()
        with torch.no_grad():
            for name, master in masters.items():
                trained[name].copy_(master)
    return outcome


def _summed_logps(model: torch.nn.Module, batch: SequenceBatch) -> Tensor:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double()
    sums = []
    for row, labels in enumerate(batch.labels.tolist()):
        tokens = [(place, token) for place, token in enumerate(labels) if token >= 0]
        sums.append(sum(logits[row, place - 1].log_softmax(-1)[token].double() for place, token in tokens))
    return torch.stack(sums)
