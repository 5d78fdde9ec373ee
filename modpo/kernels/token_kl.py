"""Exact per-token KL between two models from their hidden states: the logits of a chunk of positions at a time.

Shapes: R scored positions, C of them in one chunk, H hidden size (each model may have its own), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modpo.kernels.head import CHUNK_BYTES, MIN_CHUNK, ResponseHead

# Of the size of a chunk's logits in float64: those of both models, and what their normalisation works with.
TENSORS_OF_CHUNK = 4


@dataclass(frozen=True)
class TokenKL:
    """What two models say of the same targets, each (R,) float64 nats.

    Attributes:
        policy_logps: log-probability of the target under the first model.
        reference_logps: the same under the second.
        exact: KL(policy || reference) between the two next-token distributions, of which the target is a sample.
    """

    policy_logps: Tensor
    reference_logps: Tensor
    exact: Tensor


@torch.no_grad()
def token_kl(
    policy_RH: Tensor,
    reference_RH: Tensor,
    targets_R: Tensor,
    *,
    policy_head: ResponseHead,
    reference_head: ResponseHead,
    chunk_size: int | None = None,
) -> TokenKL:
    """Log-probabilities of the targets and exact KL, from the states that predict them; without gradient.

    Logits are made in the weights' dtype; all that follows runs in float64: policies near their reference have a KL far
    below what float32 resolves.

    Raises:
        ValueError: the models have different vocabularies.
    """
    sizes = len(policy_head.weight), len(reference_head.weight)
    if sizes[0] != sizes[1]:
        raise ValueError(f"a KL needs one vocabulary, got {sizes[0]} and {sizes[1]} tokens")
    chunk = chunk_size or max(CHUNK_BYTES // (TENSORS_OF_CHUNK * max(sizes[0], 1) * 8), MIN_CHUNK)
    parts = [
        _chunk(policy_head.logits(policy_CH), reference_head.logits(reference_CH), targets_C)
        for policy_CH, reference_CH, targets_C in zip(
            *(torch.split(tensor, chunk) for tensor in (policy_RH, reference_RH, targets_R)), strict=True
        )
    ]
    return TokenKL(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _chunk(policy_CV: Tensor, reference_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    targets_C1 = targets_C.unsqueeze(-1)
    policy_CV, reference_CV = _log_softmax(policy_CV), _log_softmax(reference_CV)
    logps = [scores_CV.gather(-1, targets_C1).squeeze(-1) for scores_CV in (policy_CV, reference_CV)]
    gap_CV = torch.sub(policy_CV, reference_CV, out=reference_CV)
    return logps[0], logps[1], policy_CV.exp_().mul_(gap_CV).sum(-1)


def _log_softmax(logits_CV: Tensor) -> Tensor:
    """Normalised in float64, in place where the logits are float64 already."""
    exact_CV = logits_CV.double()
    return exact_CV.sub_(exact_CV.logsumexp(-1, keepdim=True))
