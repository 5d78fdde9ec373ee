"""Samples from trained models by a loop of our own: of one model, or of several multiplied token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    generator = torch.Generator().manual_seed(seed)
    tokens, rows = torch.tensor([list(prompt) for prompt in prompts]), torch.arange(len(prompts))
    responses: list[list[int]] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        if not len(rows):
            break
        logps = [weight * _next_logps(model, tokens) for model, weight in mixture if weight > 0]
        step = torch.multinomial(torch.stack(logps).sum(dim=0).softmax(-1), 1, generator=generator)
        for row, token in zip(rows.tolist(), step[:, 0].tolist(), strict=True):
            responses[row].append(token)
        goes_on = step[:, 0] != tokenizer.eos_token_id
        tokens, rows = torch.cat([tokens, step], dim=1)[goes_on], rows[goes_on]
    texts: list[str] = tokenizer.batch_decode(responses, skip_special_tokens=True)
    return texts


def _next_logps(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits[:, -1].log_softmax(-1)
