"""Counted operations against sums done by hand."""

from __future__ import annotations

from modpo.core.flops import MatmulShape, forward_flops, step_flops
from modpo.core.trees import Tree, tree_batch

# Two trees: prompt 3 with responses 2 and 4, prompt 1 with response 5. 9 + 6 = 15 tokens, 11 of them responses.
BATCH = tree_batch([Tree((1, 2, 3), ((4, 5), (6, 7, 8, 9))), Tree((1,), ((2, 3, 4, 5, 6),))])
# Keys seen: 1+2+3 of the prompt, 4+5 and 4+5+6+7 of its responses; 1, and 2+3+4+5+6.
KEYS = 6 + 9 + 22 + 1 + 20
FROZEN = MatmulShape(layers=1000, trained=0, without_input_grad=1000, head=700, head_trains=False, attention=16)


def test_forward_pass_by_hand() -> None:
    expected = 2 * 1000 * 15 + 2 * 700 * 11 + 4 * 16 * KEYS
    assert forward_flops(FROZEN, BATCH.layout, 11) == expected


def test_adapter_step_by_hand() -> None:
    """Input gradients of all but the lowest layers, weight gradients of the adapter, and the frozen head's one."""
    shape = MatmulShape(layers=1100, trained=100, without_input_grad=300, head=700, head_trains=False, attention=16)
    forward = 2 * 1100 * 15 + 2 * 700 * 11 + 4 * 16 * KEYS
    backward = 2 * 800 * 15 + 2 * 100 * 15 + 2 * 700 * 11 + 8 * 16 * KEYS
    assert step_flops(shape, BATCH.layout, 11) == forward + backward


def test_full_training_costs_three_forward_passes() -> None:
    shape = MatmulShape(layers=1000, trained=1000, without_input_grad=0, head=700, head_trains=True, attention=16)
    assert step_flops(shape, BATCH.layout, 11) == 3 * forward_flops(shape, BATCH.layout, 11)
