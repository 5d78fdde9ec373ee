"""Whether two states are the same to the bit, as a number that can be held against a bound of zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> int:
    """How many numbers differ in a bit; of a tensor that one state lacks, or has in another form, all of them do."""
    return sum(_differing(one.get(name), other.get(name)) for name in one.keys() | other.keys())


def _differing(one: Tensor | None, other: Tensor | None) -> int:
    if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
        return max(tensor.numel() for tensor in (one, other) if tensor is not None)
    return int((_bytes(one) != _bytes(other)).any(dim=1).sum())


def _bytes(tensor: Tensor) -> Tensor:
    """One row of bytes a number: unlike the numbers themselves, they tell -0 from 0 and one NaN from another."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).reshape(flat.numel(), flat.element_size())
