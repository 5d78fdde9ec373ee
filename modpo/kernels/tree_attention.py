"""Attention of packed trees, put into a model through transformers' attention interface without touching its code.

Every tree is attended by itself: prompt and first response as one causal block, each further response against the
prompt and itself. Nothing grows with the square of the row. On a GPU in half precision all of them go in one call of
flash attention, see `varlen`; where that is not to be had, in a call each.

Several policies that share a model attend the same trees side by side, each in a row of its own.

Shapes: T tokens in the row, P policies, H heads, G key-value heads, D head size, R response tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig

from modpo.core.trees import TreeBatch, TreeLayout, TreeSpan
from modpo.kernels.varlen import attend_segments, can_attend

logger = logging.getLogger(__name__)

TREE_ATTENTION = "modpo_tree"
LAYOUT_KEYWORD = "modpo_layout"

# What a model may ask of its attention that a tree does not give, by the keyword that asks for it.
REFUSED_OPTIONS = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")

# Up to this many tokens a tree of two responses is attended in one batch with the others. On a CPU a whole step of
# trees of 22 tokens is 1.7 times as fast so, of 60 tokens 1.3 times, of 240 tokens as fast as with a call for each.
SMALL_TREE = 128

# Between two routes in bfloat16, of outputs and gradients about 1 in size: a hundredth is rounding, a third a fault.
VARLEN_TOLERANCE = 0.1
TRIED_LAYOUT = TreeLayout((TreeSpan(0, 5, (3, 7)), TreeSpan(15, 2, (4,)), TreeSpan(21, 1, (1, 2, 3))))

Attend = Callable[..., Tensor]
Rows = tuple[Tensor, Tensor, Tensor]
"""Queries (P, H, T, D), keys and values (P, G, T, D)."""


class TreeAttentionError(ValueError):
    """A model asks its attention for what packed trees do not have, or was run on other rows while they were on."""


class TreeAttention:
    """Switches a model between its own attention and that of packed trees.

    The model gets a config of its own for the trees, as others may share the one it has. Made anew where the model's
    modules or its config have changed.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        held = [(module, config) for module in model.modules() if (config := _config_of(module)) is not None]
        # One copy of each config, however many modules hold it.
        own: dict[int, Any] = {}
        self._held = [(module, config, copy.deepcopy(config, own)) for module, config in held]
        for _, _, switched in self._held:
            switched._attn_implementation = TREE_ATTENTION

    @contextmanager
    def switched(self) -> Iterator[None]:
        """For the length of a block, the model attends as the trees of the row say.

        Padded batches and `generate` belong outside. A backward pass may be outside too: layers that were
        checkpointed by `checkpoint_context` run again with the attention that they had.
        """
        try:
            for module, _, switched in self._held:
                module.config = switched
            yield
        finally:
            for module, config, _ in self._held:
                module.config = config

    @staticmethod
    def options(layout: TreeLayout) -> dict[str, TreeLayout]:
        """What a call of the model needs beside tokens and positions."""
        return {LAYOUT_KEYWORD: layout}


@contextmanager
def tree_attention(model: torch.nn.Module) -> Iterator[None]:
    """For the length of a block, the model attends as the trees of the row say; see `tree_logits` for the call."""
    with TreeAttention(model).switched():
        yield


def checkpoint_context(model: torch.nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` of torch's checkpointing: what is run again in the backward pass attends as it did before."""
    on = any(
        config._attn_implementation == TREE_ATTENTION for module in model.modules() if (config := _config_of(module))
    )
    return nullcontext(), tree_attention(model) if on else nullcontext()


def _config_of(module: torch.nn.Module) -> Any:
    """The config that a module itself holds, not one that it would pass on from a module inside."""
    config = vars(module).get("config")
    return config if isinstance(config, PreTrainedConfig) else None


def tree_logits(model: torch.nn.Module, batch: TreeBatch) -> Tensor:
    """Logits (R, V) that predict the response tokens of a row, inside `tree_attention`; all T are computed."""
    options = TreeAttention.options(batch.layout)
    output = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **options)
    logits: Tensor = output.logits[0, batch.predictors]
    return logits


def attend_trees(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer, as transformers calls it.

    Args:
        query: (P, H, T, D); `key` and `value` are (P, G, T, D).
        options: `modpo_layout`, `dropout` and `scaling`, and whatever else the model hands to its attention.

    Returns:
        (P, T, H, D), and no attention weights.

    Raises:
        TreeAttentionError: the model wants something else than plain causal attention over the trees.
    """
    layout = _layout_of(options)
    _check_plain(module, attention_mask, options, longest=layout.longest)
    _check_rows(query, key, layout)
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    if can_attend(query, key, value, dropout=dropout) and _varlen_agrees(
        query.device, query.dtype, (query.shape[1], key.shape[1], query.shape[3])
    ):
        return attend_segments(query, key, value, layout, scale=scale), None
    attend = partial(scaled_dot_product_attention, dropout_p=dropout, scale=scale)
    by_tree = _attend_small if _are_small(layout) else _attend_large
    return by_tree(attend, (query, key, value), layout), None


@lru_cache(maxsize=8)
def _varlen_agrees(device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int]) -> bool:
    """Whether variable-length attention has a kernel for this device, and gives what a call for each segment gives.

    Tried once a process on a few random tokens, outputs and gradients; not relied on where it fails.
    """
    try:
        gap = varlen_gap(device, dtype, sizes)
    except (RuntimeError, NotImplementedError) as error:
        logger.warning("no variable-length attention on %s, each tree is attended by itself: %s", device, error)
        return False
    if not gap <= VARLEN_TOLERANCE:
        logger.warning("variable-length attention on %s is off by %.2g: each tree is attended by itself", device, gap)
        return False
    return True


def varlen_gap(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], attend: Attend | None = None
) -> float:
    """Largest difference between all segments in one call and a call for each, in outputs and gradients.

    Args:
        sizes: heads, key-value heads and head size.
        attend: what stands in for torch's own kernel.
    """
    num_heads, num_groups, size = sizes
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, TRIED_LAYOUT.num_tokens, size) for heads in (num_heads, num_groups, num_groups)]
    with torch.enable_grad():
        rows = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
        query, key, value = rows
        outputs = (
            attend_segments(query, key, value, TRIED_LAYOUT, scale=None, attend=attend),
            _attend_large(scaled_dot_product_attention, (query, key, value), TRIED_LAYOUT),
        )
        weights = torch.randn(outputs[0].shape, generator=generator).to(device, dtype)
        found, expected = ((output, *torch.autograd.grad((output * weights).sum(), rows)) for output in outputs)
        return max(float((one - other).detach().abs().max()) for one, other in zip(found, expected, strict=True))


def _are_small(layout: TreeLayout) -> bool:
    """Whether one masked batch, which grows with the square of the longest tree, costs less than a call a response."""
    longest = max(tree.num_tokens for tree in layout.trees)
    num_calls = sum(len(tree.response_lengths) for tree in layout.trees)
    return len(layout.trees) * longest**2 <= num_calls / 2 * SMALL_TREE**2


def _attend_large(attend: Attend, rows: Rows, layout: TreeLayout) -> Tensor:
    """(P, T, H, D): prompt with its first response, then each further response against the prompt and itself."""
    # One split of the row, not a slice for each use: the gradient of a slice is a row of zeros.
    lengths = [length for tree in layout.trees for length in _segments(tree)]
    segments = zip(*(torch.split(tensor, lengths, dim=2) for tensor in rows), strict=True)
    outputs = []
    for tree in layout.trees:
        queries, first_keys, first_values = next(segments)
        outputs.append(attend(queries, first_keys, first_values, is_causal=True, enable_gqa=True))
        prompt_keys, prompt_values = (t[:, :, : tree.prompt_length] for t in (first_keys, first_values))
        for _ in tree.response_lengths[1:]:
            queries, keys, values = next(segments)
            keys, values = torch.cat([prompt_keys, keys], dim=2), torch.cat([prompt_values, values], dim=2)
            outputs.append(_attend_last(attend, queries, keys, values))
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1)


def _attend_small(attend: Attend, rows: Rows, layout: TreeLayout) -> Tensor:
    """(P, T, H, D): all trees as one masked batch, padded for the attention alone; a call for each would cost more."""
    query, key, value = rows
    places, seen = _batched(layout, query.device)
    groups = query.shape[1] // key.shape[1]
    # A batch of trees; a policy's heads stand beside those of the others.
    queries, keys, values = (tensor[:, :, places].movedim(2, 0).flatten(1, 2) for tensor in (query, key, value))
    keys, values = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (keys, values))
    output: Tensor = attend(queries, keys, values, attn_mask=seen)
    by_policy = torch.unflatten(output.transpose(1, 2)[places >= 0], 1, (len(query), -1))
    return by_policy.transpose(0, 1)


@lru_cache(maxsize=8)
def _batched(layout: TreeLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each tree's tokens stand in the row (N, L), negative beyond its end, and who sees whom (N, 1, L, L)."""
    longest = max(tree.num_tokens for tree in layout.trees)
    places = torch.full((len(layout.trees), longest), -1)
    owners = torch.full((len(layout.trees), longest), -1)
    for number, tree in enumerate(layout.trees):
        places[number, : tree.num_tokens] = torch.arange(tree.start, tree.start + tree.num_tokens)
        lengths = torch.tensor([tree.prompt_length, *tree.response_lengths])
        owners[number, : tree.num_tokens] = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    same = owners.unsqueeze(2) == owners.unsqueeze(1)
    seen = (same | (owners == 0).unsqueeze(1)).tril()
    return places.to(device), seen.unsqueeze(1).to(device)


def _segments(tree: TreeSpan) -> list[int]:
    """Lengths of the blocks that a tree's queries are attended in: the prompt goes with the first response."""
    first, *others = tree.response_lengths
    return [tree.prompt_length + first, *others]


def _attend_last(attend: Attend, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of the last queries of a sequence, whose keys go back to its start; (P, H, queries, D).

    `is_causal` would align the first query with the first key. The groups of heads go into the batch dimension, where
    their shared keys are expanded and not copied: with a mask, `enable_gqa` has no fused kernel on a GPU.
    """
    num_queries, num_keys, num_groups = queries.shape[2], keys.shape[2], keys.shape[1]
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=queries.device).tril(num_keys - num_queries)
    grouped = torch.unflatten(queries, 1, (num_groups, -1)).flatten(0, 1)
    shared = (t.flatten(0, 1).unsqueeze(1).expand(-1, grouped.shape[1], -1, -1) for t in (keys, values))
    output = attend(grouped, *shared, attn_mask=seen)
    return torch.unflatten(output, 0, (len(queries), -1)).flatten(1, 2)


def _layout_of(options: Mapping[str, Any]) -> TreeLayout:
    layout = options.get(LAYOUT_KEYWORD)
    if not isinstance(layout, TreeLayout):
        raise TreeAttentionError(f"the attention was called without {LAYOUT_KEYWORD}: only packed trees can go")
    return layout


def _check_plain(module: torch.nn.Module, mask: Tensor | None, options: Mapping[str, Any], *, longest: int) -> None:
    asked = [name for name in REFUSED_OPTIONS if options.get(name) is not None]
    if mask is not None:
        asked.append("attention_mask")
    if (window := options.get("sliding_window")) is not None and window < longest:
        asked.append("sliding_window")
    is_causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        asked.append("is_causal=False")
    if asked:
        raise TreeAttentionError(f"packed trees have no {', '.join(asked)}, which {type(module).__name__} asks for")


def _check_rows(query: Tensor, key: Tensor, layout: TreeLayout) -> None:
    if not query.shape[2] == key.shape[2] == layout.num_tokens:
        raise TreeAttentionError(
            f"one row of {layout.num_tokens} tokens was laid out, got queries {tuple(query.shape)} "
            f"for keys {tuple(key.shape)}"
        )


# Without an entry among the masks: transformers then makes none, neither for padding nor for the whole row.
AttentionInterface.register(TREE_ATTENTION, attend_trees)
