"""The other side of the sweep benchmark: one reference step after another, for every weight vector anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.reference_step import MARGIN, padded_pairs, reference_loss
from benchmarks.variants import REFERENCE_LOSS
from benchmarks.workloads import END, LORA
from modpo.core.packing import balanced_shares
from modpo.data.prepared import TokenisedPair
from modpo.models import attach_adapter

LEARNING_RATE = 1e-4
MAX_GRAD_NORM = 1.0

Batches = Sequence[Sequence[TokenisedPair]]


@dataclass(frozen=True)
class ReferencePoint:
    """CPU seconds of loading the models, and of each pass over the batches that were given."""

    loading: float
    passes: tuple[float, ...]


def reference_batches(pairs: Sequence[TokenisedPair], batch_size: int) -> list[Sequence[TokenisedPair]]:
    """The pairs in a random order, batch by batch, as one epoch has them."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    starts = range(0, len(pairs), batch_size)
    return [[pairs[place] for place in order[start : start + batch_size]] for start in starts]


def equal_parts(batches: Batches, num_parts: int) -> list[Batches]:
    """Parts of nearly equal padded tokens: any of them stands for its share of the epoch."""
    costs = [padded_pairs(batch, pad_token_id=END).input_ids.numel() for batch in batches]
    return [[batches[number] for number in part] for part in balanced_shares(costs, num_parts)]


def train_reference(
    start: Path, adapter: Path, batches: Batches, *, primary_weight: float, num_passes: int
) -> ReferencePoint:
    """Loads the start model with a fresh adapter and the margin's, and takes a step for each batch, pass by pass."""
    started = time.process_time()
    policy = attach_adapter(AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32), LORA, seed=0)
    policy.load_adapter(str(adapter), adapter_name=MARGIN)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    loading = time.process_time() - started
    passes = []
    for _ in range(num_passes):
        started = time.process_time()
        for batch in batches:
            _step(policy, optimizer, batch, primary_weight)
        passes.append(time.process_time() - started)
    return ReferencePoint(loading, tuple(passes))


def _step(
    policy: PeftModel, optimizer: torch.optim.Optimizer, batch: Sequence[TokenisedPair], primary_weight: float
) -> None:
    settings = replace(REFERENCE_LOSS, primary_weight=primary_weight, margin_weight=1 - primary_weight)
    torch.autograd.backward(reference_loss(policy, padded_pairs(batch, pad_token_id=END), settings))
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()
