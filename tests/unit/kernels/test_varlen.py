"""All segments of a row in one call, against one call each: with a kernel written out here, since torch's needs a GPU.

`tests/gpu/test_attention.py` has torch's own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modpo.core.trees import TreeLayout, TreeSpan
from modpo.kernels.tree_attention import LAYOUT_KEYWORD, attend_trees, varlen_gap
from modpo.kernels.varlen import attend_segments, can_attend, segments_of

CPU = torch.device("cpu")
# Two trees, `pp aa bbb` and `q a`.
LAYOUT = TreeLayout((TreeSpan(0, 2, (2, 3)), TreeSpan(7, 1, (1,))))


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What `varlen_attn` does with this window: a query sees the keys up to its own place, counted from both ends."""
    assert window_size == (-1, 0)
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    outputs = []
    for segment in range(len(query_ends) - 1):
        queries = query[query_ends[segment] : query_ends[segment + 1]]
        keys, values = (t[key_ends[segment] : key_ends[segment + 1]] for t in (key, value))
        assert len(queries) <= longest_query and len(keys) <= longest_key
        scores = torch.einsum("qhd,khd->hqk", queries, keys.repeat_interleave(groups, 1))
        behind = torch.arange(len(keys)) - len(keys) <= (torch.arange(len(queries)) - len(queries)).unsqueeze(1)
        weights = (scores * (query.shape[2] ** -0.5 if scale is None else scale)).masked_fill(~behind, -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", weights.softmax(-1), values.repeat_interleave(groups, 1)))
    return torch.cat(outputs)


def test_the_segments_of_a_row_that_is_written_out() -> None:
    """`pp aa` sees itself, `bbb` the prompt and itself, `q a` itself; then the same again for the second policy."""
    segments = segments_of(LAYOUT, 2, CPU)
    assert segments.keys.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 8]
    assert segments.query_ends.tolist() == [0, 4, 7, 9, 13, 16, 18]
    assert segments.key_ends.tolist() == [0, 4, 9, 11, 15, 20, 22]
    assert segments.longest == (4, 5)
    assert segments.query_ends.dtype == segments.key_ends.dtype == torch.int32


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("num_policies", [1, 3])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_one_call_is_a_call_for_each_tree(num_groups: int, num_policies: int, scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(num_policies, heads, LAYOUT.num_tokens, 8, dtype=torch.float64, generator=generator)
        for heads in (4, num_groups, num_groups)
    )
    options: dict[str, Any] = {LAYOUT_KEYWORD: LAYOUT, "scaling": scale}
    expected, _ = attend_trees(torch.nn.Module(), query, key, value, None, **options)
    found = attend_segments(query, key, value, LAYOUT, scale=scale, attend=flash)
    assert found.shape == (num_policies, LAYOUT.num_tokens, 4, 8)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_groups", [1, 4])
def test_the_trial_on_random_tokens_passes_the_right_kernel_and_fails_a_wrong_one(num_groups: int) -> None:
    """Outputs and gradients; the wrong one aligns queries with the first key, as other kernels do."""

    def from_the_first_key(*tensors: Any, **options: Any) -> Tensor:
        query, key, value, query_ends, key_ends, *longest = tensors
        own = torch.cat(
            [torch.arange(k, k + q) for k, q in zip(key_ends[:-1], query_ends.diff(), strict=True)],
        )
        return flash(query, key[own], value[own], query_ends, query_ends, *longest, **options)

    assert varlen_gap(CPU, torch.float64, (4, num_groups, 16), flash) < 1e-12
    assert varlen_gap(CPU, torch.float64, (4, num_groups, 16), from_the_first_key) > 0.3


def test_a_cpu_has_no_such_kernel() -> None:
    rows = [torch.zeros(1, 4, 9, 16, dtype=torch.bfloat16) for _ in range(3)]
    assert not can_attend(*rows, dropout=0.0)
