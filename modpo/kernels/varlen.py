"""All trees of a row in one call of variable-length flash attention: on a GPU, in half precision.

A row is cut into segments: each prompt with its first response, and each further response by itself. The queries of a
segment are the last tokens of the sequence that its keys make up, and the kernel aligns both at their ends. The keys of
a further response are its prompt's, copied, and its own.

Shapes: T tokens in the row, P policies, H heads, G key-value heads, D head size, S segments of all policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from modpo.core.trees import TreeLayout, TreeSpan

varlen_attn: Any
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    # Before torch 2.10.
    varlen_attn = None

CAUSAL = (-1, 0)
"""The kernel's window: everything back to the first key, nothing ahead."""
HALF_PRECISIONS = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256
HEAD_MULTIPLE = 8

Attend = Callable[..., Tensor]


@dataclass(frozen=True)
class Segments:
    """Where the segments of P rows begin and end, and which tokens their keys are.

    Attributes:
        keys: (K,) places in one row of T tokens, segment after segment. Queries stand in the row's own order.
        query_ends: (S + 1,) int32, of queries: 0, then where each segment ends.
        key_ends: (S + 1,) int32, the same of keys.
        longest: most queries, and most keys, of a segment.
    """

    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]


def can_attend(query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> bool:
    """Whether the kernel takes such tensors at all: (P, H, T, D), (P, G, T, D) and (P, G, T, D)."""
    size = query.shape[-1]
    return (
        varlen_attn is not None
        and query.is_cuda
        and query.dtype in HALF_PRECISIONS
        and dropout == 0.0
        and key.shape == value.shape
        and size == key.shape[-1]
        and size <= LARGEST_HEAD
        and size % HEAD_MULTIPLE == 0
    )


def attend_segments(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, *, scale: float | None, attend: Attend | None = None
) -> Tensor:
    """Attention of packed trees: (P, T, H, D) from (P, H, T, D) and twice (P, G, T, D).

    Args:
        attend: torch's `varlen_attn`, or another function of the same arguments.
    """
    segments = segments_of(layout, len(query), query.device)
    keys, values = (tensor.transpose(1, 2)[:, segments.keys].flatten(0, 1) for tensor in (key, value))
    output: Tensor = (attend or varlen_attn)(
        query.transpose(1, 2).flatten(0, 1),
        keys,
        values,
        segments.query_ends,
        segments.key_ends,
        *segments.longest,
        scale=scale,
        window_size=CAUSAL,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return torch.unflatten(output, 0, (len(query), -1))


@lru_cache(maxsize=8)
def segments_of(layout: TreeLayout, num_policies: int, device: torch.device) -> Segments:
    """The segments of a row, once for every policy; the same row goes through all layers of a model."""
    places: list[int] = []
    num_queries: list[int] = []
    num_keys: list[int] = []
    for tree in layout.trees:
        for queries, keys in _segments(tree):
            places += keys
            num_queries.append(queries)
            num_keys.append(len(keys))
    query_ends, key_ends = ([0, *accumulate(lengths * num_policies)] for lengths in (num_queries, num_keys))
    return Segments(
        keys=torch.tensor(places, device=device),
        query_ends=torch.tensor(query_ends, dtype=torch.int32, device=device),
        key_ends=torch.tensor(key_ends, dtype=torch.int32, device=device),
        longest=(max(num_queries), max(num_keys)),
    )


def _segments(tree: TreeSpan) -> list[tuple[int, list[int]]]:
    """Number of queries and places of the keys of each segment."""
    prompt = list(range(tree.start, tree.start + tree.prompt_length))
    responses = [
        (length, [*prompt, *range(start, start + length)])
        for start, length in zip(tree.response_starts, tree.response_lengths, strict=True)
    ]
    (first, keys), *others = responses
    return [(tree.prompt_length + first, keys), *others]
