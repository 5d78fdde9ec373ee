"""The ways to take one step that are compared, over the same pairs and the same weights: forward, loss, backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reference_step import (
    MARGIN,
    POLICY,
    PaddedPairs,
    PairTerms,
    ReferenceLoss,
    padded_pairs,
    reference_loss,
)
from benchmarks.trl_step import TrlStep
from benchmarks.workloads import END, LORA, ModelSize, randomise_adapter
from modpo.core.batch import PreferenceBatch
from modpo.core.flops import step_flops
from modpo.core.losses import LossSettings
from modpo.core.trees import Tree, tree_batch
from modpo.data.pair_table import RECORD, TOKEN_TYPE, PairTable
from modpo.data.prepared import TokenisedPair
from modpo.scoring import ResponseModel, completion_logps
from modpo.training.batches import AnnotatedPairs
from modpo.training.step import preference_micro_batch
from modpo.utilisation import matmul_shape

Floats = NDArray[np.float64]

CPU = torch.device("cpu")
BETA = 0.1
REFERENCE_LOSS = ReferenceLoss(primary_weight=0.5, margin_weight=0.5, beta=BETA, margin_beta=BETA)
OUR_LOSS = LossSettings(weights=(0.5, 0.5), units=(1.0, 1.0), primary=0, beta=BETA)

OURS = "ours"
REFERENCE, REFERENCE_CACHED = "reference step", "reference step, cached"
TRL, TRL_PRECOMPUTED = "TRL", "TRL, precomputed"
PADDING_FREE = "padding-free, cached"
"""Our own path without sharing prompts: every response is a tree of its own."""
VARIANTS = (OURS, REFERENCE, REFERENCE_CACHED, TRL, TRL_PRECOMPUTED, PADDING_FREE)
OF_TRL = (TRL, TRL_PRECOMPUTED)


@dataclass(frozen=True)
class Step:
    """One way, ready to be taken again and again: nothing is stepped in between.

    Attributes:
        loss: a forward pass, from the pairs on; with gradient.
        trained: the adapter.
    """

    loss: Callable[[], Tensor]
    trained: Sequence[torch.nn.Parameter]

    def run(self) -> float:
        """Forward and backward; returns the loss."""
        loss = self.loss()
        torch.autograd.backward(loss)
        return loss.item()

    def clear(self) -> None:
        for parameter in self.trained:
            parameter.grad = None


@dataclass(frozen=True)
class Case:
    """A model and the pairs of one batch."""

    size: ModelSize
    pairs: Sequence[TokenisedPair]

    @property
    def longest(self) -> int:
        return max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in self.pairs)

    def step(self, variant: str, folder: Path) -> Step:
        """A model of its own for each: they do not get into each other's way.

        Args:
            folder: where TRL writes.
        """
        if variant in OF_TRL:
            return _trl_step(self, folder, precomputed=variant == TRL_PRECOMPUTED)
        if variant in {REFERENCE, REFERENCE_CACHED}:
            return _reference_step(self, cached=variant == REFERENCE_CACHED)
        return _our_step(self, shares_prompts=variant == OURS)

    def useful_flops(self) -> int:
        """Operations that an exact step over these pairs cannot do without."""
        batch = tree_batch([_tree(pair) for pair in self.pairs])
        return step_flops(matmul_shape(self.size.policy()), batch.layout, len(batch.targets))


def annotated(case: Case) -> AnnotatedPairs:
    """The pairs with their reference log-probabilities and margin rewards, scored as modpo scores them."""
    policy = case.size.policy()
    rows = ResponseModel(policy, longest=case.longest)
    with policy.disable_adapter():
        reference = _both_logps(rows, case.pairs)
    # The margin model is the policy's base with other numbers in its adapter.
    randomise_adapter(policy, POLICY, seed=2)
    margin_rewards = BETA * (_both_logps(rows, case.pairs) - reference)
    # The primary objective's own rewards do not enter the loss.
    return AnnotatedPairs(_table(case.pairs, reference), np.arange(len(case.pairs)), (None, margin_rewards))


def _table(pairs: Sequence[TokenisedPair], reference_logps: Floats) -> PairTable:
    """What a trial maps from the disk, in memory."""
    parts = [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    records = np.zeros(len(pairs), RECORD)
    records["lengths"] = [[len(ids) for ids in part] for part in parts]
    totals = records["lengths"].sum(axis=1)
    records["start"] = np.cumsum(totals) - totals
    records["reference_logps"] = reference_logps
    tokens = np.fromiter(chain.from_iterable(chain.from_iterable(parts)), dtype=TOKEN_TYPE)
    return PairTable((pairs[0].objective,), records, tokens)


def _both_logps(rows: ResponseModel, pairs: Sequence[TokenisedPair]) -> Floats:
    """Chosen and rejected log-probabilities (B, 2)."""
    prompts = [pair.prompt_ids for pair in pairs for _ in range(2)]
    responses = [ids for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    return completion_logps(rows, prompts, responses, batch_size=8).reshape(-1, 2)


def _our_step(case: Case, *, shares_prompts: bool) -> Step:
    policy = case.size.policy()
    rows = ResponseModel(policy, longest=case.longest)
    data = annotated(case)

    def batch() -> PreferenceBatch:
        made = data.batch(range(len(data)), CPU)
        return made if shares_prompts else _without_sharing(made, case.pairs)

    return Step(lambda: preference_micro_batch(rows, batch(), OUR_LOSS).loss, _trained(policy))


def _without_sharing(batch: PreferenceBatch, pairs: Sequence[TokenisedPair]) -> PreferenceBatch:
    trees = [Tree(p.prompt_ids, (ids,)) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    return PreferenceBatch(tree_batch(trees), batch.reference, batch.margin_rewards)


def _reference_step(case: Case, *, cached: bool) -> Step:
    policy = case.size.policy()
    policy.add_adapter(MARGIN, policy.peft_config[POLICY])
    randomise_adapter(policy, MARGIN, seed=2)
    policy.set_adapter(POLICY)
    terms = _terms(annotated(case), case.size.dtype) if cached else None

    def loss() -> Tensor:
        batch: PaddedPairs = padded_pairs(case.pairs, pad_token_id=END)
        return reference_loss(policy, batch, REFERENCE_LOSS, cached=terms)

    return Step(loss, _trained(policy))


def _terms(data: AnnotatedPairs, dtype: torch.dtype) -> PairTerms:
    """Chosen above rejected, in the dtype that the reference computes them in."""
    batch = data.batch(range(len(data)), CPU)
    margin = torch.cat([batch.margin_rewards.chosen[:, 1], batch.margin_rewards.rejected[:, 1]])
    return PairTerms(torch.cat([batch.reference.chosen, batch.reference.rejected]).to(dtype), margin.to(dtype))


def _trl_step(case: Case, folder: Path, *, precomputed: bool) -> Step:
    step = TrlStep(case.size.model(), case.pairs, lora=LORA, beta=BETA, precomputed=precomputed, folder=folder)
    randomise_adapter(step.policy, POLICY, seed=1)
    return Step(step.loss, _trained(step.policy))


def _trained(policy: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def _tree(pair: TokenisedPair) -> Tree:
    return Tree(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids))
