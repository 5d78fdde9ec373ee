"""Variable-length flash attention is what a GPU in half precision gets, and it is the attention of the trees."""

from __future__ import annotations

import pytest
import torch

from modpo.kernels.tree_attention import VARLEN_TOLERANCE, varlen_gap
from modpo.kernels.varlen import can_attend


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(4, 4, 64), (8, 2, 128), (4, 1, 256)], ids=str)
def test_all_trees_in_one_call(gpu: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    num_heads, num_groups, size = sizes
    query = torch.zeros(1, num_heads, 3, size, dtype=dtype, device=gpu)
    key = torch.zeros(1, num_groups, 3, size, dtype=dtype, device=gpu)
    assert can_attend(query, key, key, dropout=0.0)
    assert not can_attend(query.float(), key.float(), key.float(), dropout=0.0)
    assert not can_attend(query, key, key, dropout=0.1)
    assert varlen_gap(gpu, dtype, sizes) < VARLEN_TOLERANCE / 2
