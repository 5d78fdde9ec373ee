"""Packed trees: prompts with all their responses in one row of tokens, each prompt standing there once.

A tree is laid out `[prompt | response_1 | ... | response_K]`, and trees follow each other without padding. Every
response continues the prompt: its positions start at the prompt's length, and it sees the prompt and itself only.

Shapes: T tokens in the row, R response tokens, N responses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """One prompt and its K >= 1 responses, as token ids."""

    prompt_ids: Tokens
    response_ids: tuple[Tokens, ...]

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a tree needs at least one prompt token: the last one predicts every response's first")
        if not self.response_ids or not all(self.response_ids):
            lengths = [len(response) for response in self.response_ids]
            raise ValueError(f"a tree needs at least one response, and each at least one token, got lengths {lengths}")

    @property
    def num_tokens(self) -> int:
        """Tokens that the tree takes in a row."""
        return len(self.prompt_ids) + sum(map(len, self.response_ids))


@dataclass(frozen=True)
class TreeSpan:
    """Where one tree stands in its row, in tokens."""

    start: int
    prompt_length: int
    response_lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return self.prompt_length + sum(self.response_lengths)

    @property
    def response_starts(self) -> list[int]:
        """Where each response's first token stands in the row."""
        first = self.start + self.prompt_length
        return [first + sum(self.response_lengths[:number]) for number in range(len(self.response_lengths))]


@dataclass(frozen=True)
class TreeLayout:
    """The trees of a row from left to right, as plain numbers: the attention is planned without asking a device."""

    trees: tuple[TreeSpan, ...]

    @property
    def num_tokens(self) -> int:
        return sum(tree.num_tokens for tree in self.trees)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one response: how far attention and positions reach."""
        return max(tree.prompt_length + max(tree.response_lengths) for tree in self.trees)


@dataclass(frozen=True)
class TreeBatch:
    """One row of packed trees and which of its positions predict what.

    Attributes:
        input_ids: (1, T) token ids.
        position_ids: (1, T); those of every response start at the length of its prompt.
        predictors: (R,) index into the row of the position that predicts each response token. The last prompt token
            stands here once for every response.
        targets: (R,) the predicted token ids.
        owners: (R,) number 0..N-1 of the response that each token belongs to, in the caller's order.
        num_responses: N.
        layout: where the trees stand, for the attention.
    """

    input_ids: Tensor
    position_ids: Tensor
    predictors: Tensor
    targets: Tensor
    owners: Tensor
    num_responses: int
    layout: TreeLayout

    def to(self, device: torch.device) -> TreeBatch:
        return TreeBatch(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            predictors=self.predictors.to(device),
            targets=self.targets.to(device),
            owners=self.owners.to(device),
            num_responses=self.num_responses,
            layout=self.layout,
        )


def tree_batch(trees: Sequence[Tree], *, share_prompts: bool = False) -> TreeBatch:
    """One row of the trees, in their order; responses are numbered in that order too.

    Args:
        share_prompts: let the responses of trees whose prompts are equal stand behind one prompt. Their numbers stay.

    Raises:
        ValueError: there is no tree.
    """
    if not trees:
        raise ValueError("a row needs at least one tree")
    rooted = _rooted(trees, share_prompts=share_prompts)
    layout = _layout(rooted)
    tokens = chain.from_iterable(chain(root, *(ids for _, ids in responses)) for root, responses in rooted)
    input_ids = np.fromiter(tokens, dtype=np.int64, count=layout.num_tokens)
    starts = np.array([start for tree in layout.trees for start in tree.response_starts])
    lengths = np.array([length for tree in layout.trees for length in tree.response_lengths])
    numbers = np.array([number for _, responses in rooted for number, _ in responses])
    last_of_prompt = np.array([t.start + t.prompt_length - 1 for t in layout.trees for _ in t.response_lengths])
    places = _ranges(starts, lengths)
    predictors = places - 1
    predictors[np.cumsum(lengths) - lengths] = last_of_prompt
    return TreeBatch(
        input_ids=torch.from_numpy(input_ids).unsqueeze(0),
        position_ids=torch.from_numpy(_positions(layout)).unsqueeze(0),
        predictors=torch.from_numpy(predictors),
        targets=torch.from_numpy(input_ids[places]),
        owners=torch.from_numpy(np.repeat(numbers, lengths)),
        num_responses=len(numbers),
        layout=layout,
    )


Rooted = tuple[Tokens, list[tuple[int, Tokens]]]


def _rooted(trees: Sequence[Tree], *, share_prompts: bool) -> list[Rooted]:
    """Prompts as they will stand in the row, each with its responses and their numbers."""
    rooted: dict[Hashable, Rooted] = {}
    number = 0
    for place, tree in enumerate(trees):
        _, responses = rooted.setdefault(tree.prompt_ids if share_prompts else place, (tree.prompt_ids, []))
        responses += enumerate(tree.response_ids, start=number)
        number += len(tree.response_ids)
    return list(rooted.values())


def _layout(rooted: Sequence[Rooted]) -> TreeLayout:
    spans, start = [], 0
    for prompt, responses in rooted:
        spans.append(TreeSpan(start, len(prompt), tuple(len(ids) for _, ids in responses)))
        start += spans[-1].num_tokens
    return TreeLayout(tuple(spans))


def _positions(layout: TreeLayout) -> NDArray[np.int64]:
    """(T,) position of each token in its own sequence of prompt and response."""
    pieces = [(first, length) for tree in layout.trees for first, length in _pieces(tree)]
    firsts, lengths = np.array(pieces, dtype=np.int64).T
    return _ranges(firsts, lengths)


def _pieces(tree: TreeSpan) -> list[tuple[int, int]]:
    """First position and length of the prompt and of each response."""
    return [(0, tree.prompt_length), *((tree.prompt_length, length) for length in tree.response_lengths)]


def _ranges(firsts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers first, first + 1, ... of all ranges, one range behind the other."""
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(firsts - before, lengths)
    return numbers
