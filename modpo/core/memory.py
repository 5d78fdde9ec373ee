"""Bytes that training takes on each data-parallel rank, by ZeRO stage: plain arithmetic, before anything is started.

With F numbers frozen at f bytes each, T trained at t bytes each (4 of an adapter, and of a model in float32), N ranks:

| stage | weights | gradients | masters and moments | room for reducing |
|---|---|---|---|---|
| 0 | fF + tT | tT | 8T, and 4T for masters where t is 2 | none |
| 1 | fF + tT | 2tT | 12T / N | tB, while gradients are reduced |
| 2 | fF + tT | tT / N, and up to a tensor more | 12T / N | tB, while gradients are reduced |
| 3 | (fF + tT) / N | tT / N | 12T / N | tB, and what is gathered |

B is the smaller of T and DeepSpeed's bucket. Stage 3 keeps tensors of at most 100,000 numbers gathered for good, and of
the others at most a billion numbers at a time; with one rank there is nothing to gather. What is offloaded is in the
memory of the host instead.

Activations are those of a decoder with gated linear units, whose hidden size is h and inner size i, in a dtype of d
bytes: (11 d + n) h + (4 d + m) i for every token and layer, where n, m are 4, 0 in bfloat16 and with adapters on
bfloat16 18, 2 (norms, and the inputs of adapters, are kept in float32); with gradient checkpointing d h, and one layer
in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

REDUCE_BUCKET = 500_000_000
"""DeepSpeed's own: numbers that are reduced at once."""
PERSISTENT = 100_000
GATHERED_AT_ONCE = 1_000_000_000
# What one chunk of the output embeddings takes: its logits, and the exact ones that are computed from them.
HEAD_BYTES = 2 * 64 * 2**20
# NF4: half a byte a number, and for 64 of them one byte, and for 256 of these four.
BYTES_IN_4_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class ModelTensors:
    """Sizes of a policy's tensors.

    Attributes:
        trained, frozen: numbers of each tensor; those in 4 bits are not among the frozen.
        quantised: numbers that are frozen in 4 bits.
        dtype_bytes: of a number that is frozen, or of the forward pass.
        trained_bytes: of a number that is trained.
        hidden, inner, layers: sizes of the decoder.
        vocabulary: of the output embeddings; None where it is not known, and taken for large.
    """

    trained: Sequence[int]
    frozen: Sequence[int]
    quantised: int
    dtype_bytes: int
    trained_bytes: int
    hidden: int
    inner: int
    layers: int
    vocabulary: int | None = None

    @property
    def num_trained(self) -> int:
        return sum(self.trained)

    @property
    def num_numbers(self) -> int:
        return self.num_trained + sum(self.frozen) + self.quantised

    @property
    def is_adapter(self) -> bool:
        return bool(self.frozen)


@dataclass(frozen=True)
class Partition:
    """How the engine spreads a model over the ranks."""

    stage: int
    world_size: int
    offload_optimizer: bool = False
    offload_parameters: bool = False


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank's device, and those that it keeps in the host's memory instead.

    Attributes:
        buffers: room that DeepSpeed makes for reducing gradients, and for weights that it gathers.
        activations: of one micro-batch, at most.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    host: int

    @property
    def states(self) -> int:
        """What is surely there: all but the activations and the buffers."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.states + self.buffers + self.activations


def rank_memory(tensors: ModelTensors, partition: Partition, *, tokens: int, checkpointing: bool) -> RankMemory:
    """Of a training step with so many tokens in a micro-batch."""
    stage = partition.stage
    weights, gathered = _weights(tensors, partition)
    optimizer = _optimizer(tensors, partition)
    of_all = tensors.num_trained * tensors.trained_bytes
    own = _split(tensors.num_trained, partition.world_size) * tensors.trained_bytes
    gradients = (of_all, 2 * of_all, own, own)[stage]
    bucket = 0 if stage == 0 else min(REDUCE_BUCKET, tensors.num_trained) * tensors.trained_bytes
    host = 0
    if partition.offload_optimizer and stage > 0:
        host += optimizer
        optimizer = 0
    if partition.offload_parameters and stage == 3:
        host += weights
        weights = 0
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buffers=bucket + gathered,
        activations=activation_bytes(tensors, tokens=tokens, checkpointing=checkpointing),
        host=host,
    )


def activation_bytes(tensors: ModelTensors, *, tokens: int, checkpointing: bool) -> int:
    """What a forward pass keeps for the backward pass, and the room that the output embeddings work in."""
    size, low = tensors.dtype_bytes, tensors.dtype_bytes == 2
    more_hidden, more_inner = (18, 2) if low and tensors.is_adapter else (4 * low, 0)
    layer = (11 * size + more_hidden) * tensors.hidden + (4 * size + more_inner) * tensors.inner
    kept = size * tensors.hidden * tensors.layers + layer if checkpointing else layer * tensors.layers
    # The states below the first layer and above the last, and the direction of the head's gradient.
    logits = 2 * 4 * tokens * (HEAD_BYTES if tensors.vocabulary is None else tensors.vocabulary)
    return tokens * (kept + 2 * size * tensors.hidden) + min(HEAD_BYTES, logits)


def _weights(tensors: ModelTensors, partition: Partition) -> tuple[int, int]:
    """(bytes that stay, bytes that stage 3 gathers for the time that they are needed)."""
    frozen, trained = tensors.dtype_bytes, tensors.trained_bytes
    whole = math.ceil(tensors.quantised * BYTES_IN_4_BITS) + sum(tensors.frozen) * frozen
    whole += tensors.num_trained * trained
    if partition.stage < 3 or partition.world_size == 1:
        return whole, 0
    ranks = partition.world_size
    own = (
        sum(_split(n, ranks) for n in tensors.frozen) * frozen
        + sum(_split(n, ranks) for n in tensors.trained) * trained
    )
    larger = sum(n for n in (*tensors.frozen, *tensors.trained) if n > PERSISTENT)
    return own, persistent_bytes(tensors) + min(larger, GATHERED_AT_ONCE) * frozen


def persistent_bytes(tensors: ModelTensors) -> int:
    """Of the tensors that stage 3 does not free once it has gathered them."""
    small = [sum(n for n in sizes if n <= PERSISTENT) for sizes in (tensors.frozen, tensors.trained)]
    return small[0] * tensors.dtype_bytes + small[1] * tensors.trained_bytes


def _optimizer(tensors: ModelTensors, partition: Partition) -> int:
    """AdamW's two moments, and the float32 that it steps where that is not the weights themselves."""
    if partition.stage == 0:
        return tensors.num_trained * (8 if tensors.trained_bytes == 4 else 12)
    return 12 * _split(tensors.num_trained, partition.world_size)


def _split(number: int, parts: int) -> int:
    return -(-number // parts)
