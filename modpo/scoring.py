"""Response log-probabilities of a language model: the one way by which policy, reference and margins are scored.

Prompts stand once with all their responses in packed rows (`core.trees`) wherever the model's family allows it, and the
logits of a position exist only while its target is looked up. Other families are scored sequence by sequence, padded:
the same numbers, slower. One model is scored one way everywhere, so that its cached and its fresh values agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from modpo.core.batch import PairLogps, SequenceBatch
from modpo.core.logps import response_logps, sampled_kl
from modpo.core.packing import first_fit_decreasing
from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.errors import InputError
from modpo.kernels.families import unscorable_reason, unsupported_reason
from modpo.kernels.head import ResponseHead, head_scale, response_sums
from modpo.kernels.probes import agrees_with_plain, depends_on_others
from modpo.kernels.token_kl import token_kl
from modpo.kernels.tree_attention import TreeAttention
from modpo.model_configs import not_scorable
from modpo.models import (
    TrainedModel,
    make_sequences,
    plain_model,
    sequence_logits,
    sequence_logps,
    to_device,
)
from modpo.watch import each

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

    Raises:
        InputError: the model's log-probabilities depend on more than the tokens before each.

    Attributes:
        is_packed: whether rows are scored as they are; otherwise each response becomes a padded sequence of its own.
    """

    def __init__(self, policy: torch.nn.Module, *, longest: int) -> None:
        super().__init__()
        # First, so that shared parameters have the policy's names.
        self.policy = policy
        model = plain_model(policy)
        _refuse_unscorable(model, longest)
        reason = _padded_because(model, longest)
        self.is_packed = reason is None
        if reason is not None:
            _refuse_dependent(model)
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
        (hidden_TH,) = self.hidden_states(batch)
        token_logps_R = self.head(hidden_TH[batch.predictors], batch.targets)
        return response_sums(token_logps_R, batch.owners, batch.num_responses)

    def hidden_states(self, batch: TreeBatch, *, num_rows: int = 1) -> Tensor:
        """What a packed model's output embeddings get, (num_rows, T, H): the row as often as there are policies."""
        (decoder,) = self._decoder
        with self._attention.switched():
            states: Tensor = decoder(
                input_ids=batch.input_ids.expand(num_rows, -1),
                position_ids=batch.position_ids,
                use_cache=False,
                **self._attention.options(batch.layout),
            ).last_hidden_state
        return states


def pair_logps(model: torch.nn.Module, batch: TreeBatch) -> PairLogps:
    """Log-probabilities of B pairs from one forward: the responses are chosen and rejected in turn.

    Of policies that are stacked, (P, B).
    """
    logps = model(batch)
    return PairLogps(logps[..., 0::2], logps[..., 1::2])


@torch.no_grad()
def completion_logps(
    model: ResponseModel, prompts: Sequence[Tokens], responses: Sequence[Tokens], *, batch_size: int
) -> NDArray[np.float64]:
    """Response log-probabilities of any number of completions, in the order given.

    Responses to equal prompts share them, and equal completions are scored once. Rows are filled with about as many
    tokens as `batch_size` sequences have.
    """
    logps = np.empty(len(prompts))
    for batch, places in each(_rows(prompts, responses, batch_size, is_packed=model.is_packed)):
        _spread(logps, model(batch.to(_device_of(model))), places)
    return logps


@dataclass(frozen=True)
class CompletionKL:
    """Each (N,) float64 nats, of responses that the policy sampled at temperature 1; see `core.logps.sampled_kl`."""

    k1: NDArray[np.float64]
    exact: NDArray[np.float64]
    reference_logps: NDArray[np.float64]


@torch.no_grad()
def completion_kl(
    trained: TrainedModel, prompts: Sequence[Tokens], responses: Sequence[Tokens], *, longest: int, batch_size: int
) -> CompletionKL:
    """How far a policy is from its reference on these completions, in the order given.

    Both models score the same rows, so that nothing is left of the difference where they are equal.

    Args:
        longest: see `ResponseModel`.
    """
    policy = ResponseModel(trained.policy, longest=longest)
    if trained.is_start:
        nothing = np.zeros(len(prompts))
        return CompletionKL(nothing, nothing, completion_logps(policy, prompts, responses, batch_size=batch_size))
    with trained.reference() as model:
        reference = policy if model is trained.policy else ResponseModel(model, longest=longest)
    is_packed = policy.is_packed and reference.is_packed
    k1, exact, logps = (np.empty(len(prompts)) for _ in range(3))
    for batch, places in each(_rows(prompts, responses, batch_size, is_packed=is_packed)):
        row = batch.to(_device_of(policy))
        kl = _packed_kl if is_packed else _padded_kl
        for values, sums in zip((k1, exact, logps), kl(policy, reference, trained.reference, row), strict=True):
            _spread(values, sums, places)
    return CompletionKL(k1, exact, logps)


Row = tuple[TreeBatch, list[list[int]]]
"""A row of trees and, for each of its responses, the numbers of the completions that it stands for."""
Sums = tuple[Tensor, Tensor, Tensor]
"""k1, exact KL and reference log-probability of a row's responses."""
AsReference = Callable[[], AbstractContextManager[PreTrainedModel]]


def _packed_kl(policy: ResponseModel, reference: ResponseModel, as_reference: AsReference, row: TreeBatch) -> Sums:
    (policy_TH,) = policy.hidden_states(row)
    with as_reference():
        (reference_TH,) = reference.hidden_states(row)
    tokens = token_kl(
        policy_TH[row.predictors],
        reference_TH[row.predictors],
        row.targets,
        policy_head=policy.head,
        reference_head=reference.head,
    )
    values = (tokens.policy_logps - tokens.reference_logps, tokens.exact, tokens.reference_logps)
    k1, exact, logps = (response_sums(value_R, row.owners, row.num_responses) for value_R in values)
    return k1, exact, logps


def _padded_kl(policy: ResponseModel, reference: ResponseModel, as_reference: AsReference, row: TreeBatch) -> Sums:
    sequences = unpacked(row)
    policy_logits = sequence_logits(policy.policy, sequences)
    with as_reference():
        reference_logits = sequence_logits(reference.policy, sequences)
    k1, exact = sampled_kl(policy_logits, reference_logits, sequences.labels)
    return k1, exact, response_logps(reference_logits, sequences.labels)


def grown(prompts: Sequence[Tokens], responses: Sequence[Tokens], budget: int) -> list[tuple[Tree, list[list[int]]]]:
    """A tree for each distinct prompt with its distinct responses, and which completions each of these stands for.

    A prompt with more responses than the budget of tokens holds has several trees.
    """
    members: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        members.setdefault(tuple(prompt), {}).setdefault(tuple(response), []).append(number)
    return [
        (Tree(prompt, tuple(part)), [places[response] for response in part])
        for prompt, places in members.items()
        for part in _parts(list(places), budget - len(prompt))
    ]


def row_budget(prompts: Sequence[Tokens], responses: Sequence[Tokens], batch_size: int) -> int:
    """About as many tokens as `batch_size` of these sequences have."""
    return batch_size * max(1, (sum(map(len, prompts)) + sum(map(len, responses))) // max(1, len(prompts)))


def _parts(responses: Sequence[tuple[int, ...]], room: int) -> Iterator[list[tuple[int, ...]]]:
    """Runs of responses that fit the room together; one that is too long for it stands alone."""
    part: list[tuple[int, ...]] = []
    used = 0
    for response in responses:
        if part and used + len(response) > room:
            yield part
            part, used = [], 0
        part.append(response)
        used += len(response)
    yield part


def _rows(prompts: Sequence[Tokens], responses: Sequence[Tokens], batch_size: int, *, is_packed: bool) -> Iterator[Row]:
    """Everything that there is to score; what will be padded comes sorted by length, a response a tree."""
    budget = row_budget(prompts, responses, batch_size)
    trees = grown(prompts, responses, budget if is_packed else 0)
    if is_packed:
        rows = first_fit_decreasing([tree.num_tokens for tree, _ in trees], budget)
    else:
        order = sorted(range(len(trees)), key=lambda number: trees[number][0].num_tokens)
        rows = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for row in rows:
        yield (
            tree_batch([trees[number][0] for number in row]),
            [places for number in row for places in trees[number][1]],
        )


def _spread(values: NDArray[np.float64], sums_N: Tensor, places: Sequence[Sequence[int]]) -> None:
    """Writes what a row's responses have to all the places that each stands for."""
    for value, numbers in zip(sums_N.tolist(), places, strict=True):
        values[list(numbers)] = value


def _device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


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


def _refuse_unscorable(model: PreTrainedModel, longest: int) -> None:
    if reason := unscorable_reason(model.config, longest):
        raise InputError(not_scorable(reason))


def _refuse_dependent(model: PreTrainedModel) -> None:
    """A probe for what is padded: whatever agrees with its packed rows is causal."""
    difference = depends_on_others(model)
    if not difference <= PROBE_TOLERANCE[model.dtype]:
        kind = model.config.model_type
        raise InputError(
            not_scorable(f"{kind} models give a token another probability beside other tokens ({difference:.2g} nats).")
        )


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
