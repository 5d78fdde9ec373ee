"""Response log-probabilities and exact per-token KL from logits.

Shapes: N sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modpo.core.batch import IGNORED_LABEL


def response_logps(logits_NTV: Tensor, labels_NT: Tensor) -> Tensor:
    """Summed log-probability of each response, (N,) float64 nats.

    Token t is predicted by position t - 1. Log-softmax runs in float32, the sum in float64: a bfloat16 sum of
    2,048 token log-probabilities is off by about 4 nats.
    """
    targets, mask = _targets(labels_NT)
    token_logps = torch.log_softmax(logits_NTV[:, :-1].float(), dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (token_logps.double() * mask).sum(-1)


def token_cross_entropy(logits_NTV: Tensor, labels_NT: Tensor) -> Tensor:
    """Mean negative log-probability per response token over the batch, a scalar in nats."""
    _, mask = _targets(labels_NT)
    return -response_logps(logits_NTV, labels_NT).sum() / mask.sum().clamp(min=1)


def sampled_kl(policy_logits_NTV: Tensor, reference_logits_NTV: Tensor, labels_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Two unbiased estimates of KL(policy || reference) per response sampled from the policy at temperature 1.

    Returns:
        k1: (N,) log pi(y|x) - log pi_ref(y|x), nats.
        exact: (N,) sum over the sampled response's positions of the exact KL between the two next-token
            distributions; the same expectation as k1 by the chain rule, with a lower variance, and never negative.
    """
    targets, mask = _targets(labels_NT)
    policy = torch.log_softmax(policy_logits_NTV[:, :-1].double(), dim=-1)
    reference = torch.log_softmax(reference_logits_NTV[:, :-1].double(), dim=-1)
    index = targets.unsqueeze(-1)
    k1 = (policy.gather(-1, index) - reference.gather(-1, index)).squeeze(-1) * mask
    exact = (policy.exp() * (policy - reference)).sum(-1) * mask
    return k1.sum(-1), exact.sum(-1)


def _targets(labels_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Labels shifted onto the positions that predict them (N, T-1), and their 0/1 mask."""
    shifted = labels_NT[:, 1:]
    mask = shifted != IGNORED_LABEL
    return shifted.masked_fill(~mask, 0), mask
