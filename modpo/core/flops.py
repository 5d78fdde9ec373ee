"""Floating-point operations that an exact step cannot do without: what its speed is measured against.

A product of matrices costs two operations for each multiplication. Norms, activations and softmaxes are left out: they
are less than one in a hundred. So is everything that is computed twice, looked at and thrown away, or padded.
"""

from __future__ import annotations

from dataclasses import dataclass

from modpo.core.trees import TreeLayout, TreeSpan
from modpo.core.workload import Workload


@dataclass(frozen=True)
class MatmulShape:
    """How many multiplications a token costs in a decoder's matrix products, sorted by what a backward pass needs.

    Attributes:
        layers: weights of the linear layers, the output embeddings left out.
        trained: those of them that train: the adapter's, or all.
        without_input_grad: those of them whose input needs no gradient, as nothing below them trains.
        head: weights of the output embeddings, vocabulary x hidden size.
        head_trains: whether those train.
        attention: heads x head size, summed over the layers.
    """

    layers: int
    trained: int
    without_input_grad: int
    head: int
    head_trains: bool
    attention: int


def forward_flops(shape: MatmulShape, layout: TreeLayout, num_targets: int) -> int:
    """Operations of scoring a row of trees: `num_targets` response tokens need logits."""
    return 2 * (shape.layers * layout.num_tokens + shape.head * num_targets) + _attention_flops(shape, layout)


def step_flops(shape: MatmulShape, layout: TreeLayout, num_targets: int) -> int:
    """Operations of the forward and the backward pass over a row of trees.

    Going back, every linear layer needs the gradient of its input, unless nothing below trains, and every trained one
    that of its weights. Attention has two products going forward and four going back.
    """
    input_grads = 2 * (shape.layers - shape.without_input_grad) * layout.num_tokens
    weight_grads = 2 * shape.trained * layout.num_tokens
    head_grads = 2 * shape.head * num_targets * (2 if shape.head_trains else 1)
    attention_grads = 2 * _attention_flops(shape, layout)
    return forward_flops(shape, layout, num_targets) + input_grads + weight_grads + head_grads + attention_grads


def row_workload(layout: TreeLayout, num_targets: int, shape: MatmulShape | None) -> Workload:
    """What training on a row of trees asks of a model; the operations are not known where its shape is not."""
    num_sequences = sum(len(tree.response_lengths) for tree in layout.trees)
    return Workload(
        tokens=layout.num_tokens,
        padded_tokens=num_sequences * layout.longest,
        flops=None if shape is None else step_flops(shape, layout, num_targets),
    )


def _attention_flops(shape: MatmulShape, layout: TreeLayout) -> int:
    """Queries times keys, and attention times values, for the keys that a query may see."""
    return 2 * 2 * shape.attention * sum(map(_keys_seen, layout.trees))


def _keys_seen(tree: TreeSpan) -> int:
    """Keys that the tokens of a tree see, summed: prompt and response up to and with the token itself."""
    prompt = tree.prompt_length
    return _triangle(prompt) + sum(length * prompt + _triangle(length) for length in tree.response_lengths)


def _triangle(number: int) -> int:
    return number * (number + 1) // 2
