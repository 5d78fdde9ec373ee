"""The layout of packed trees, written out by hand."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from modpo.core.trees import Tree, TreeBatch, TreeLayout, TreeSpan, tree_batch

# Tokens say where they belong: prompt a is 10, 11, ..., its responses are in the hundreds.
A = Tree((10, 11, 12), ((110, 111), (120, 121, 122)))
B = Tree((20,), ((210,), (220, 221), (230,)))
A_AGAIN = Tree((10, 11, 12), ((130,),))


def test_one_tree_by_hand() -> None:
    made = tree_batch([A])
    assert made.input_ids.tolist() == [[10, 11, 12, 110, 111, 120, 121, 122]]
    assert made.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    # Row position 2, the last prompt token, predicts the first token of both responses.
    assert made.predictors.tolist() == [2, 3, 2, 5, 6]
    assert made.targets.tolist() == [110, 111, 120, 121, 122]
    assert made.owners.tolist() == [0, 0, 1, 1, 1]
    assert made.num_responses == 2
    assert made.layout == TreeLayout((TreeSpan(start=0, prompt_length=3, response_lengths=(2, 3)),))


def test_trees_follow_each_other() -> None:
    made = tree_batch([B, A])
    assert made.input_ids.tolist() == [[20, 210, 220, 221, 230, 10, 11, 12, 110, 111, 120, 121, 122]]
    assert made.position_ids.tolist() == [[0, 1, 1, 2, 1, 0, 1, 2, 3, 4, 3, 4, 5]]
    assert made.predictors.tolist() == [0, 0, 2, 0, 7, 8, 7, 10, 11]
    assert made.targets.tolist() == [210, 220, 221, 230, 110, 111, 120, 121, 122]
    assert made.owners.tolist() == [0, 1, 1, 2, 3, 3, 4, 4, 4]
    assert made.num_responses == 5
    assert made.layout == TreeLayout((TreeSpan(0, 1, (1, 2, 1)), TreeSpan(5, 3, (2, 3))))


def test_equal_prompts_stand_once_only_if_the_caller_says_so() -> None:
    apart = tree_batch([A, B, A_AGAIN])
    assert [tree.prompt_length for tree in apart.layout.trees] == [3, 1, 3]
    shared = tree_batch([A, B, A_AGAIN], share_prompts=True)
    assert shared.layout == TreeLayout((TreeSpan(0, 3, (2, 3, 1)), TreeSpan(9, 1, (1, 2, 1))))
    assert shared.input_ids.tolist() == [[10, 11, 12, 110, 111, 120, 121, 122, 130, 20, 210, 220, 221, 230]]
    assert shared.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 3, 0, 1, 1, 2, 1]]
    assert shared.predictors.tolist() == [2, 3, 2, 5, 6, 2, 9, 9, 11, 9]
    # The response 130 is the sixth that the caller gave, wherever it stands.
    assert shared.owners.tolist() == [0, 0, 1, 1, 1, 5, 2, 3, 3, 4]


@pytest.mark.parametrize("share_prompts", [False, True])
def test_each_response_can_be_read_back(share_prompts: bool) -> None:
    trees = [A, B, A_AGAIN, B]
    made = tree_batch(trees, share_prompts=share_prompts)
    given = [(tree.prompt_ids, response) for tree in trees for response in tree.response_ids]
    assert made.num_responses == len(given)
    for number, (prompt, response) in enumerate(given):
        own = made.owners == number
        assert tuple(made.targets[own].tolist()) == response
        before = made.predictors[own]
        assert made.input_ids[0, before].tolist() == [prompt[-1], *response[:-1]]
        assert made.position_ids[0, before].tolist() == list(range(len(prompt) - 1, len(prompt) + len(response) - 1))


def test_lengths_of_a_layout() -> None:
    layout = tree_batch([A, B]).layout
    assert layout.num_tokens == 13 == sum(tree.num_tokens for tree in (A, B))
    assert layout.longest == 3 + 3
    assert [tree.response_starts for tree in layout.trees] == [[3, 5], [9, 10, 12]]


def test_all_tensors_are_indices_and_move_together() -> None:
    moved = tree_batch([A, B]).to(torch.device("meta"))
    tensors = [value for field in fields(TreeBatch) if isinstance(value := getattr(moved, field.name), Tensor)]
    assert [(t.dtype, t.device.type) for t in tensors] == [(torch.int64, "meta")] * 5
    assert moved.layout == tree_batch([A, B]).layout


@pytest.mark.parametrize(
    ("prompt", "responses", "message"),
    [
        ((), ((1,),), "a tree needs at least one prompt token: the last one predicts every response's first"),
        ((1,), (), "a tree needs at least one response, and each at least one token, got lengths []"),
        ((1,), ((2, 3), ()), "a tree needs at least one response, and each at least one token, got lengths [2, 0]"),
    ],
)
def test_what_is_no_tree_is_refused(
    prompt: tuple[int, ...], responses: tuple[tuple[int, ...], ...], message: str
) -> None:
    with pytest.raises(ValueError, match="a tree needs") as caught:
        Tree(prompt, responses)
    assert str(caught.value) == message


def test_a_row_without_trees_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one tree"):
        tree_batch([])
