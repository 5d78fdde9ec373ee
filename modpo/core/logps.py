"""Response log-probabilities and exact per-token KL from logits.

Shapes: N sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modpo.core.batch import IGNORED_LABEL

CHUNK = 512


def response_logps(logits_NTV: Tensor, labels_NT: Tensor) -> Tensor:
    """Summed log-probability of each response, (N,) float64 nats.

    Token t is predicted by position t - 1. Log-softmax runs in float32 (in float64 for float64 logits), the sum in
    float64: a bfloat16 sum of 2,048 token log-probabilities is off by about 4 nats.
    """
    targets, mask = _targets(labels_NT)
    wide = torch.promote_types(logits_NTV.dtype, torch.float32)
    logps_NTV = torch.log_softmax(logits_NTV[:, :-1], dim=-1, dtype=wide)
    token_logps = logps_NTV.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (token_logps.double() * mask).sum(-1)


def sampled_kl(policy_logits_NTV: Tensor, reference_logits_NTV: Tensor, labels_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Two unbiased estimates of KL(policy || reference) per response sampled from the policy at temperature 1.

    Returns:
        k1: (N,) log pi(y|x) - log pi_ref(y|x), nats.
        exact: (N,) sum over the sampled response's positions of the exact KL between the two next-token
            distributions; the same expectation as k1 by the chain rule, with a lower variance, and never negative.
    """
    targets, mask = _targets(labels_NT)
    rows = mask.nonzero()[:, 0]
    k1 = torch.zeros(len(mask), dtype=torch.float64, device=mask.device)
    exact = torch.zeros_like(k1)
    positions = zip(
        torch.split(rows, CHUNK),
        torch.split(targets[mask], CHUNK),
        torch.split(policy_logits_NTV[:, :-1][mask], CHUNK),
        torch.split(reference_logits_NTV[:, :-1][mask], CHUNK),
        strict=True,
    )
    # In float64, but a few positions at a time: whole batches of a large vocabulary would not fit.
    for row, target, policy_logits, reference_logits in positions:
        policy = torch.log_softmax(policy_logits.double(), dim=-1)
        gap = policy - torch.log_softmax(reference_logits.double(), dim=-1)
        k1.index_add_(0, row, gap.gather(-1, target.unsqueeze(-1)).squeeze(-1))
        exact.index_add_(0, row, (policy.exp() * gap).sum(-1))
    return k1, exact


def _targets(labels_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Labels shifted onto the positions that predict them (N, T-1), and their 0/1 mask."""
    shifted = labels_NT[:, 1:]
    mask = shifted != IGNORED_LABEL
    return shifted.masked_fill(~mask, 0), mask
