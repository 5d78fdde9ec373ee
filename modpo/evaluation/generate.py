"""Ancestral samples from a policy: temperature 1, nothing cut from the distribution, so KL and J_w are unbiased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modpo.models import Tokens
from modpo.watch import each


@dataclass(frozen=True)
class Sample:
    """One sampled response, with its end token unless it was cut at the length limit."""

    response_ids: tuple[int, ...]
    truncated: bool


@torch.no_grad()
def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> list[Sample]:
    """One response to each prompt, in the order given. Other random streams of the process are left alone.

    Prompts are batched by length, so that little is padded.
    """
    ends = end_tokens(model, tokenizer)
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )
    # generate() fills what a config leaves at its default from the model's own: a stored temperature would win.
    stored, model.generation_config = model.generation_config, config
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    samples: dict[int, Sample] = {}
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for start in each(range(0, len(order), batch_size)):
                rows = order[start : start + batch_size]
                input_ids, attention_mask = _left_padded([prompts[row] for row in rows], tokenizer.pad_token_id)
                output = model.generate(
                    input_ids=input_ids.to(model.device),
                    attention_mask=attention_mask.to(model.device),
                    generation_config=config,
                )
                for row, tokens in zip(rows, output[:, input_ids.shape[1] :].tolist(), strict=True):
                    samples[row] = _until_end(tokens, ends)
    finally:
        model.generation_config = stored
    return [samples[row] for row in range(len(prompts))]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a response: the tokenizer's, and those that the model's own files name."""
    own = getattr(model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [] if own is None else [own]
    return {int(tokenizer.eos_token_id), *listed}


def _until_end(tokens: list[int], ends: set[int]) -> Sample:
    for position, token in enumerate(tokens):
        if token in ends:
            return Sample(tuple(tokens[: position + 1]), truncated=False)
    return Sample(tuple(tokens), truncated=True)


def _left_padded(prompts: Sequence[Tokens], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), length), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(list(prompt))
        attention_mask[row, length - len(prompt) :] = 1
    return input_ids, attention_mask
