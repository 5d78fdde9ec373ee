"""Peak memory of one step on a GPU: packed rows with the frozen-head kernel against padded full logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from modpo.config.tree import LoraConfig
from modpo.core.trees import Tree, tree_batch
from modpo.models import attach_adapter, sequence_logps
from modpo.scoring import ResponseModel, unpacked

VOCABULARY = 32_000
# Counted on paper: the padded way keeps logits of 1,700 positions, in bfloat16 and float32, and their gradients.
LEAST_RATIO = 2.0


def peak_above(device: torch.device, logps: Callable[[], Tensor]) -> int:
    """Bytes of a forward and backward pass above what was there before; the second one, so that nothing is set up."""
    for _ in range(2):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        logps().sum().backward()
    return torch.cuda.max_memory_allocated(device) - before


def test_a_packed_step_takes_less_than_half_of_a_padded_one(gpu: torch.device) -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4
    )
    model = AutoModelForCausalLM.from_config(config).to(gpu, torch.bfloat16)
    policy = attach_adapter(model, LoraConfig(r=16), seed=0).to(gpu)
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (length,), generator=generator).tolist())

    lengths = ((200, (230, 120)), (150, (90, 210)))
    trees = [Tree(tokens(prompt), tuple(tokens(r) for r in responses)) for prompt, responses in lengths]
    batch = tree_batch(trees).to(gpu)
    rows, sequences = ResponseModel(policy, longest=430), unpacked(batch)
    assert rows.is_packed
    packed = peak_above(gpu, lambda: rows(batch))
    padded = peak_above(gpu, lambda: sequence_logps(policy, sequences))
    print(f"packed {packed / 2**20:.0f} MiB, padded {padded / 2**20:.0f} MiB: {padded / packed:.1f} times")
    assert padded >= LEAST_RATIO * packed
