"""The same-shaped tensors of a preference batch, in named pairs so that they cannot be swapped.

Shapes: B pairs, K objectives, N sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from modpo.core.trees import TreeBatch

IGNORED_LABEL = -100


@dataclass(frozen=True)
class PairLogps:
    """Summed response log-probabilities (B,), in nats, float64."""

    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class PairRewards:
    """Rewards (B, K) of both responses under every objective, raw units, higher is better, float64."""

    chosen: Tensor
    rejected: Tensor

    @property
    def gap(self) -> Tensor:
        """Chosen minus rejected (B, K), subtracted in float64 so that a prompt-only shift cancels."""
        return self.chosen.double() - self.rejected.double()


@dataclass(frozen=True)
class SequenceBatch:
    """Right-padded token sequences with the response marked.

    Attributes:
        input_ids: (N, T) token ids.
        attention_mask: (N, T), 1 for real tokens.
        labels: (N, T), the token id where a response token stands and `IGNORED_LABEL` elsewhere.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class PreferenceBatch:
    """B preference pairs: the responses of the row are chosen and rejected in turn, pair by pair."""

    trees: TreeBatch
    reference: PairLogps
    margin_rewards: PairRewards

    @property
    def num_pairs(self) -> int:
        return self.reference.chosen.shape[0]
