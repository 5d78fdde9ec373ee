"""Response log-probabilities of a language model: the one way by which policy, reference and margins are scored.

Prompts stand once with all their responses in packed rows (`core.trees`) wherever the model's family allows it, and the
logits of a position exist only while its target is looked up. Other families are scored sequence by sequence, padded:
the same numbers, slower. One model is scored one way everywhere, so that its cached and its fresh values agree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from modpo.core.batch import PairLogps, SequenceBatch
from modpo.core.packing import first_fit_decreasing
from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.kernels.families import agrees_with_plain, unsupported_reason
from modpo.kernels.head import ResponseHead, head_scale, response_sums
from modpo.kernels.tree_attention import TreeAttention
from modpo.models import make_sequences, plain_model, sequence_logps, to_device

logger = logging.getLogger(__name__)

Tokens = Sequence[int]

# Between rounding (1e-5, 0.11 in bfloat16) and families whose attention is another one (0.24 nats and more).
PROBE_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.2}
# Any token will do: the mask leaves it out.
PADDING_TOKEN = 0


class ResponseModel(torch.nn.Module):
    """A causal language model whose forward pass takes a row of packed trees and gives each response's log-probability.

    Args:
        policy: a model of transformers, or PEFT's wrapper around one. Padded batches and `generate` go through it as
            before.
        longest: tokens of the longest prompt with one response that will ever be scored.

    Attributes:
        is_packed: whether rows are scored as they are; otherwise each response becomes a padded sequence of its own.
    """

    def __init__(self, policy: torch.nn.Module, *, longest: int) -> None:
        super().__init__()
        # First, so that shared parameters have the policy's names.
        self.policy = policy
        model = plain_model(policy)
        reason = _padded_because(model, longest)
        self.is_packed = reason is None
        if reason is not None:
            _say_once(reason)
            return
        self.head = ResponseHead(model.get_output_embeddings(), scale=head_scale(model.config) or 1.0)
        # In a tuple: the same module under two names would have its hooks run twice.
        self._decoder = (model.base_model,)
        self._attention = TreeAttention(model)

    def forward(self, batch: TreeBatch) -> Tensor:
        """(N,) float64 nats, with gradient where the policy trains."""
        if not self.is_packed:
            return sequence_logps(self.policy, unpacked(batch))
        (decoder,) = self._decoder
        with self._attention.switched():
            hidden_TH = decoder(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                use_cache=False,
                **self._attention.options(batch.layout),
            ).last_hidden_state[0]
        token_logps_R = self.head(hidden_TH[batch.predictors], batch.targets)
        return response_sums(token_logps_R, batch.owners, batch.num_responses)


def pair_logps(model: torch.nn.Module, batch: TreeBatch) -> PairLogps:
    """Log-probabilities of B pairs from one forward: the responses are chosen and rejected in turn."""
    logps = model(batch)
    return PairLogps(logps[0::2], logps[1::2])


@torch.no_grad()
def completion_logps(
    model: ResponseModel, prompts: Sequence[Tokens], responses: Sequence[Tokens], *, batch_size: int
) -> NDArray[np.float64]:
    """Response log-probabilities of any number of completions, in the order given.

    Responses to equal prompts share them. Rows are filled with about as many tokens as `batch_size` sequences have.
    """
    logps = np.empty(len(prompts))
    if not len(prompts):
        return logps
    trees, members = _grown(prompts, responses)
    budget = batch_size * max(1, round(sum(map(len, prompts)) + sum(map(len, responses))) // len(prompts))
    device = next(model.parameters()).device
    for row in first_fit_decreasing([tree.num_tokens for tree in trees], budget):
        scored = model(tree_batch([trees[number] for number in row]).to(device))
        logps[[member for number in row for member in members[number]]] = scored.cpu().numpy()
    return logps


def _grown(prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> tuple[list[Tree], list[list[int]]]:
    """A tree for each distinct prompt, and which completions its responses are."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        members.setdefault(tuple(prompt), []).append(number)
    trees = [Tree(prompt, tuple(tuple(responses[number]) for number in numbers)) for prompt, numbers in members.items()]
    return trees, list(members.values())


def unpacked(batch: TreeBatch) -> SequenceBatch:
    """Each response of a row as a padded sequence of prompt and response, in the order of their numbers."""
    tokens = batch.input_ids[0].tolist()
    owners = batch.owners.tolist()
    sequences: dict[int, tuple[list[int], list[int]]] = {}
    seen = 0
    for tree in batch.layout.trees:
        prompt = tokens[tree.start : tree.start + tree.prompt_length]
        for start, length in zip(tree.response_starts, tree.response_lengths, strict=True):
            sequences[owners[seen]] = prompt, tokens[start : start + length]
            seen += length
    ordered = [sequences[number] for number in range(batch.num_responses)]
    made = make_sequences([p for p, _ in ordered], [r for _, r in ordered], pad_token_id=PADDING_TOKEN)
    return to_device(made, batch.input_ids.device)


def _padded_because(model: PreTrainedModel, longest: int) -> str | None:
    """Why a model is not scored in packed rows, or None."""
    reason = unsupported_reason(model.config, longest)
    if reason is not None:
        return reason
    if head_scale(model.config) is None:
        return f"{model.config.model_type} models do more than scale what their output embeddings give."
    if type(model.get_output_embeddings()) is not torch.nn.Linear:
        return "this model has more than plain output embeddings, such as an adapter on them."
    difference = agrees_with_plain(model)
    if difference > PROBE_TOLERANCE[model.dtype]:
        return f"{model.config.model_type} models give other numbers in packed rows ({difference:.2g} nats)."
    return None


@cache
def _say_once(reason: str) -> None:
    logger.warning("%s Responses are scored one by one and padded: the same numbers, slower.", reason)
