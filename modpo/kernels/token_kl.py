"""Exact per-token KL between two models from their hidden states: the logits of a chunk of positions at a time.

Shapes: R scored positions, C of them in one chunk, H hidden size (each model may have its own), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modpo.kernels.head import CHUNK_BYTES, MIN_CHUNK, ResponseHead

# Of the size of a chunk's logits in float64: for each model the logits as they are made, exact, and their exponentials.
TENSORS_OF_CHUNK = 6


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
    vocabulary = len(policy_head.weight)
    if len(reference_head.weight) != vocabulary:
        raise ValueError(f"a KL needs one vocabulary, got {vocabulary} and {len(reference_head.weight)} tokens")
    chunk = chunk_size or max(CHUNK_BYTES // (TENSORS_OF_CHUNK * max(vocabulary, 1) * 8), MIN_CHUNK)
    found = TokenKL(*(torch.empty(targets_R.shape, dtype=torch.float64, device=targets_R.device) for _ in range(3)))
    policy, reference = (_Room(head, min(chunk, len(targets_R))) for head in (policy_head, reference_head))
    for start in range(0, len(targets_R), chunk):
        rows = slice(start, start + chunk)
        policy_CV = policy.log_softmax(policy_RH[rows])
        reference_CV = reference.log_softmax(reference_RH[rows])
        targets_C1 = targets_R[rows].unsqueeze(-1)
        found.policy_logps[rows] = policy_CV.gather(-1, targets_C1).squeeze(-1)
        found.reference_logps[rows] = reference_CV.gather(-1, targets_C1).squeeze(-1)
        gap_CV = torch.sub(policy_CV, reference_CV, out=reference_CV)
        found.exact[rows] = policy_CV.exp_().mul_(gap_CV).sum(-1)
    return found


class _Room:
    """Tensors for a chunk of one model's logits, overwritten by the next: new ones would leave holes in the heap."""

    def __init__(self, head: ResponseHead, positions: int) -> None:
        self._head = head
        self._made_CV, self._exact_CV, self._exponentials_CV = (
            torch.empty((positions, len(head.weight)), dtype=dtype, device=head.weight.device)
            for dtype in (head.weight.dtype, torch.float64, torch.float64)
        )

    def log_softmax(self, hidden_CH: Tensor) -> Tensor:
        """(C, V) float64: a view into this room."""
        head, count = self._head, len(hidden_CH)
        hidden_CH, made_CV = hidden_CH.to(head.weight.dtype), self._made_CV[:count]
        if head.bias is None:
            torch.mm(hidden_CH, head.weight.t(), out=made_CV)
        else:
            torch.addmm(head.bias, hidden_CH, head.weight.t(), out=made_CV)
        exact_CV = self._exact_CV[:count].copy_(made_CV)
        if head.scale != 1:
            exact_CV.mul_(head.scale)
        top_C1 = exact_CV.amax(-1, keepdim=True)
        exponentials_CV = torch.sub(exact_CV, top_C1, out=self._exponentials_CV[:count]).exp_()
        return exact_CV.sub_(top_C1 + exponentials_CV.sum(-1, keepdim=True).log())
