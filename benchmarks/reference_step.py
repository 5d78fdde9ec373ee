"""What the method's first implementation does in a step, written anew from its description: the baseline of speed.

Chosen and rejected responses go through the model together, padded to the longest, with the logits of all positions in
float32. Four such forward passes make a step: policy, reference (the adapter switched off), margin model (another
adapter on the same base) and that model's own reference, which is the same base once more. Nothing is kept from one
step to the next.

Shapes: B pairs, N = 2B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from modpo.core.batch import IGNORED_LABEL
from modpo.data.prepared import TokenisedPair

POLICY, MARGIN = "default", "margin"


@dataclass(frozen=True)
class PaddedPairs:
    """Chosen sequences above rejected ones, right-padded: ids, mask and labels (N, T)."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class PairTerms:
    """What does not depend on the policy, (N,): reference log-probabilities and margin rewards."""

    reference: Tensor
    margin_rewards: Tensor


@dataclass(frozen=True)
class ReferenceLoss:
    """Numbers of the loss: w_k of the primary objective, w_m of the margin's, beta of the policy and of the margin."""

    primary_weight: float
    margin_weight: float
    beta: float
    margin_beta: float


def padded_pairs(pairs: Sequence[TokenisedPair], *, pad_token_id: int) -> PaddedPairs:
    """The batch as the collator of the reference makes it."""
    sequences = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    sequences += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    longest = max(len(prompt) + len(response) for prompt, response in sequences)
    ids, mask, labels = [], [], []
    for prompt, response in sequences:
        padding = longest - len(prompt) - len(response)
        ids.append([*prompt, *response] + [pad_token_id] * padding)
        mask.append([1] * (longest - padding) + [0] * padding)
        labels.append([IGNORED_LABEL] * len(prompt) + [*response] + [IGNORED_LABEL] * padding)
    return PaddedPairs(torch.tensor(ids), torch.tensor(mask), torch.tensor(labels))


def summed_logps(model: torch.nn.Module, batch: PaddedPairs) -> Tensor:
    """Log-probabilities of the responses (N,), by way of a log-softmax over all logits (N, T, V)."""
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    logits_NTV = output.logits[:, :-1]
    logps_NTV = logits_NTV.to(torch.promote_types(logits_NTV.dtype, torch.float32)).log_softmax(-1)
    labels_NT = batch.labels[:, 1:]
    wanted_NT = labels_NT != IGNORED_LABEL
    targets_NT1 = labels_NT.masked_fill(~wanted_NT, 0).unsqueeze(-1)
    token_logps_NT: Tensor = logps_NTV.gather(-1, targets_NT1).squeeze(-1)
    return (token_logps_NT * wanted_NT).sum(-1)


@torch.no_grad()
def pair_terms(policy: PeftModel, batch: PaddedPairs, settings: ReferenceLoss) -> PairTerms:
    """The three forward passes that the reference repeats in every step."""
    with policy.disable_adapter():
        reference = summed_logps(policy, batch)
    policy.set_adapter(MARGIN, inference_mode=True)
    margin = summed_logps(policy, batch)
    # Makes the policy's adapter trainable again, too.
    policy.set_adapter(POLICY)
    with policy.disable_adapter():
        margin_reference = summed_logps(policy, batch)
    return PairTerms(reference, settings.margin_beta * (margin - margin_reference))


def reference_loss(
    policy: PeftModel, batch: PaddedPairs, settings: ReferenceLoss, *, cached: PairTerms | None = None
) -> Tensor:
    """The loss of a step, scalar, with gradient in the policy's adapter.

    Args:
        policy: a base model with the adapters `default`, which trains, and `margin`.
        cached: the terms that do not depend on the policy, where they are known; otherwise they are computed here.
    """
    terms = pair_terms(policy, batch, settings) if cached is None else cached
    log_ratios = settings.beta * (summed_logps(policy, batch) - terms.reference)
    gap = _chosen_minus_rejected(log_ratios) - settings.margin_weight * _chosen_minus_rejected(terms.margin_rewards)
    return -functional.logsigmoid(gap / settings.primary_weight).mean()


def _chosen_minus_rejected(values_N: Tensor) -> Tensor:
    chosen, rejected = values_N.chunk(2)
    return chosen - rejected
