"""Four completions, a tiny model that is far from uniform on them, and their log-probabilities by the chain rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [10, 11, 12, 13]]
RESPONSES = [[14, 15, 2], [16, 2], [17, 18, 19, 20, 2], [2]]

SMALL_LLAMA = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1,
)  # fmt: skip


def longer_completions() -> tuple[list[list[int]], list[list[int]]]:
    """Twelve prompts, two at a time alike, and responses, of 5 to 39 tokens each."""
    generator = torch.Generator().manual_seed(0)

    def sequences(count: int) -> list[list[int]]:
        lengths = torch.randint(5, 40, (count,), generator=generator).tolist()
        return [torch.randint(3, 32, (length,), generator=generator).tolist() for length in lengths]

    return [prompt for prompt in sequences(6) for _ in range(2)], sequences(12)


def tiny(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    # Larger weights than those of a fresh model, so that a wrong attention shows.
    for parameter in model.parameters():
        parameter.data *= 3
    return model.eval()


@torch.no_grad()
def logps_by_token(model: PreTrainedModel) -> Tensor:
    """(N,) the chain rule by hand: the probability of each response token after exactly the tokens before it."""
    sums = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        total = 0.0
        for position, token in enumerate(response):
            scores = model(torch.tensor([[*prompt, *response[:position]]])).logits[0, -1].double().tolist()
            total += scores[token] - math.log(sum(map(math.exp, scores)))
        sums.append(total)
    return torch.tensor(sums, dtype=torch.float64)
