"""What steps are measured on: seeded pairs of three length distributions, and random models of two shapes.

The seeds were chosen so that the batches have, within 1 %, the token counts that the project's first measurements were
made on. For uniform lengths such a batch is kind to padding: it pads 1.84 tokens for each one that must be computed,
where the mean over seeds is 2.07. The others lie near their means, 2.27 and 2.43.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from modpo.config.tree import LoraConfig
from modpo.data.prepared import TokenisedPair
from modpo.models import attach_adapter

END = 0
"""The end-of-sequence token: the last one of every response, and of no other place."""
LORA = LoraConfig(r=64, lora_alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
HEAD_SIZE = 64
# Between a fresh adapter, whose gradient is half zero, and one that changes the model beyond recognition.
ADAPTER_SCALE = 0.02

Lengths = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Tokens of B prompts (B,), and of their chosen and rejected responses (B, 2)."""


def _uniform(generator: np.random.Generator, num_pairs: int) -> Lengths:
    return generator.integers(30, 301, num_pairs), generator.integers(30, 251, (num_pairs, 2))


def _safety(generator: np.random.Generator, num_pairs: int) -> Lengths:
    """Short questions, answers of very different lengths."""
    prompts = generator.integers(10, 61, num_pairs)
    return prompts, np.clip(np.exp(generator.normal(4.85, 0.5, (num_pairs, 2))).astype(np.int64), 10, 400)


def _qa(generator: np.random.Generator, num_pairs: int) -> Lengths:
    """Long prompts, with the passages that answer them, that both responses share."""
    return generator.integers(100, 681, num_pairs), generator.integers(30, 201, (num_pairs, 2))


@dataclass(frozen=True)
class Workload:
    """A batch of pairs as token ids, the same in every process.

    Attributes:
        draw: lengths for a generator and a number of pairs.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Lengths]
    num_pairs: int
    seed: int

    def pairs(self, vocabulary: int, *, shrink: int = 1) -> list[TokenisedPair]:
        """Pairs of random tokens; lengths are divided by `shrink`."""
        generator = np.random.default_rng(self.seed)
        prompts, responses = self.draw(generator, self.num_pairs)
        pairs = []
        for number, (prompt, (chosen, rejected)) in enumerate(zip(prompts, responses, strict=True)):
            tokens = [
                tuple(generator.integers(END + 1, vocabulary, max(1, length // shrink)).tolist())
                for length in (prompt, chosen, rejected)
            ]
            pairs.append(_pair(str(number), tokens[0], (*tokens[1][:-1], END), (*tokens[2][:-1], END)))
        return pairs


UNIFORM = Workload("uniform", _uniform, num_pairs=6, seed=7858)
SAFETY = Workload("safety", _safety, num_pairs=12, seed=11035)
QA = Workload("qa", _qa, num_pairs=6, seed=414)
WORKLOADS = (UNIFORM, SAFETY, QA)


def word(token: int) -> str:
    """The text of a token: the tokenizer of `trl_step` reads it back as this token."""
    return "</s>" if token == END else f"w{token}"


def _pair(pair_id: str, prompt: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...]) -> TokenisedPair:
    texts = (" ".join(map(word, tokens)) for tokens in (prompt, chosen, rejected))
    prompt_text, chosen_text, rejected_text = texts
    return TokenisedPair(
        pair_id=pair_id,
        objective="primary",
        prompt=prompt_text,
        chosen=chosen_text,
        rejected=rejected_text,
        prompt_ids=prompt,
        chosen_ids=chosen,
        rejected_ids=rejected,
        split="train",
    )


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of a batch under the three layouts.

    Attributes:
        padded: chosen and rejected sequences, all as long as the longest.
        flat: the same sequences without padding.
        unique: each prompt once, with both responses.
        responses: those whose log-probability is wanted.
        longest: of one sequence.
    """

    padded: int
    flat: int
    unique: int
    responses: int
    longest: int


def token_counts(pairs: Sequence[TokenisedPair]) -> TokenCounts:
    prompts = sum(len(pair.prompt_ids) for pair in pairs)
    responses = sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
    longest = max(len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs)
    return TokenCounts(2 * len(pairs) * longest, 2 * prompts + responses, prompts + responses, responses, longest)


@dataclass(frozen=True)
class ModelSize:
    """A Llama of random weights."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    dtype: torch.dtype = torch.float32

    def model(self, *, seed: int = 0) -> LlamaForCausalLM:
        """The same weights for the same seed."""
        torch.manual_seed(seed)
        return LlamaForCausalLM(self.config()).eval().to(self.dtype)

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.hidden // HEAD_SIZE),
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=END,
            attn_implementation="sdpa",
        )

    def policy(self, lora: LoraConfig = LORA) -> PeftModel:
        """A model with an adapter that has already moved away from it."""
        policy = attach_adapter(self.model(), lora, seed=0).to(self.dtype)
        randomise_adapter(policy, "default", seed=1)
        return policy


# The head takes part in the multiplications as it does in a Qwen2.5-1.5B (14 %) ...
H512 = ModelSize(hidden=512, layers=4, intermediate=1376, vocabulary=4096)
# ... and as in models that are small beside their vocabulary (72 %).
V32K = ModelSize(hidden=256, layers=4, intermediate=688, vocabulary=32_000)
# For the quick form: no bar is meant for it.
SMALL = ModelSize(hidden=256, layers=2, intermediate=688, vocabulary=2048)


@torch.no_grad()
def randomise_adapter(policy: torch.nn.Module, adapter: str, *, seed: int) -> None:
    """Gives an adapter's matrices new numbers, the B matrices too, which are zero in a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if f".{adapter}." in name:
            parameter.copy_(ADAPTER_SCALE * torch.randn(parameter.shape, generator=generator))
