"""Samples from trained models by a loop of our own: of one model, or of several multiplied token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from modpo.core.trees import Tokens


@torch.no_grad()
def sampled_texts(
    mixture: Sequence[tuple[PreTrainedModel, float]],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    seed: int,
) -> list[str]:
    """One response to each prompt from prod_j pi_j^w_j, normalised token by token; prompts have equally many tokens."""
    caches: list[Any] = [DynamicCache() for _ in mixture]
    generator = torch.Generator().manual_seed(seed)
    responses, alive = [], torch.ones(len(prompts), dtype=torch.bool)
    step = torch.tensor([list(prompt) for prompt in prompts])
    for _ in range(max_new_tokens):
        mixed: Tensor = sum(
            weight * model(input_ids=step, past_key_values=cache, use_cache=True).logits[:, -1].log_softmax(-1)
            for (model, weight), cache in zip(mixture, caches, strict=True)
        )
        step = torch.multinomial(mixed.softmax(-1), 1, generator=generator)
        responses.append(torch.where(alive, step[:, 0], tokenizer.eos_token_id))
        alive &= step[:, 0] != tokenizer.eos_token_id
        if not alive.any():
            break
    texts: list[str] = tokenizer.batch_decode(torch.stack(responses, dim=1), skip_special_tokens=True)
    return texts
