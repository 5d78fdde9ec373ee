"""What models were really asked, counted where they are called: no test of a count trusts the code that it counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from modpo.core.trees import TreeBatch
from modpo.scoring import ResponseModel


@contextmanager
def counted_responses(seen: list[TreeBatch]) -> Iterator[None]:
    """Within the block, `seen` gets every row of responses that any model scores."""

    def record(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, ResponseModel):
            seen.append(inputs[0])

    hook = register_module_forward_pre_hook(record)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def counted_forwards(seen: list[PreTrainedModel]) -> Iterator[None]:
    """Within the block, `seen` gets every language model at each of its forward passes, in whatever way it is used.

    A model and the decoder inside it are one: it is the outermost module of transformers that counts, or the decoder
    where the head is passed by.
    """

    def record(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        # The decoder takes part in every forward pass, with logits or without.
        if isinstance(module, PreTrainedModel) and module.base_model is module:
            seen.append(module)

    hook = register_module_forward_pre_hook(record)
    try:
        yield
    finally:
        hook.remove()


def num_responses(seen: list[TreeBatch]) -> int:
    return sum(batch.num_responses for batch in seen)
