"""Probes of models whose configs say nothing: whether they score as causal models do, and in packed trees too.

Shapes: N rows, T tokens in a row, R response tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modpo.core.trees import Tree, tree_batch
from modpo.kernels.tree_attention import TreeAttentionError, tree_attention, tree_logits

SEED = 0
LENGTHS = ((7, (5, 9)), (3, (6, 2, 11)), (1, (4,)))
BEGINNINGS = (3, 8, 15)


@torch.no_grad()
def agrees_with_plain(model: torch.nn.Module) -> float:
    """Largest absolute difference in nats of response token log-probabilities, packed in trees and one by one.

    A few short random sequences in eval mode, the same for every call; the model is left as it was. Rounding alone
    gives up to 1e-5 in float32 and 0.15 in bfloat16; attention or positions that are not those of the trees put random
    models off by 0.2 to 10. Infinity where the model cannot be run on trees at all. All ranks must call.
    """
    with _evaluating(model):
        trees = _probe_trees(model)
        return _largest_difference(_packed_logps(model, trees), _plain_logps(model, trees))


@torch.no_grad()
def depends_on_others(model: torch.nn.Module) -> float:
    """Largest absolute difference in nats that later tokens, padding or other rows make to a token's log-probability.

    Beginnings of one random sequence, alone and padded to one batch, against the whole sequence, in eval mode. Nothing
    but rounding for causal models, padded on the right; as much as the logits differ for others. Not a number is
    infinity. All ranks must call.
    """
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(_vocabulary(model), (max(BEGINNINGS),), generator=generator)
    beginnings = [tokens[:length] for length in BEGINNINGS]
    with _evaluating(model):
        (whole,) = _row_logps(model, [tokens])
        # The shorter ones after the longest: what a model remembers of it shows.
        rows = [*_row_logps(model, beginnings), *(_row_logps(model, [row])[0] for row in beginnings)]
    return max(_largest_difference(row, whole[: len(row)]) for row in rows)


def _row_logps(model: Any, rows: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities of all tokens but the first, row by row, padded on the right and run together."""
    lengths = [len(row) for row in rows]
    ids_NT = pad_sequence(list(rows), batch_first=True).to(model.device)
    mask_NT = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
    logits_NTV = model(input_ids=ids_NT, attention_mask=mask_NT, use_cache=False).logits
    logps_NT = _token_logps(logits_NTV[:, :-1], ids_NT[:, 1:])
    return [row[: length - 1] for row, length in zip(logps_NT, lengths, strict=True)]


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode for the length of a block, and then the mode that each module had."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


def _vocabulary(model: Any) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size


def _probe_trees(model: Any) -> list[Tree]:
    """Trees of tokens from the model's vocabulary, the same for every call."""
    generator = torch.Generator().manual_seed(SEED)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(_vocabulary(model), (length,), generator=generator).tolist())

    return [Tree(tokens(prompt), tuple(tokens(r) for r in responses)) for prompt, responses in LENGTHS]


def _packed_logps(model: Any, trees: Sequence[Tree]) -> Tensor:
    """Response token log-probabilities (R,), NaN where the model has no way to run without masks and with a layout."""
    batch = tree_batch(trees).to(model.device)
    try:
        with tree_attention(model):
            logits_RV = tree_logits(model, batch)
    # A forward pass that knows no such keyword, or does arithmetic with the mask that it did not get.
    except (TreeAttentionError, TypeError, AttributeError):
        return torch.full(batch.targets.shape, math.nan, device=batch.targets.device)
    return _token_logps(logits_RV, batch.targets)


def _plain_logps(model: Any, trees: Sequence[Tree]) -> Tensor:
    """The same tokens in the same order, each response in a forward pass of its own."""
    logps = []
    for prompt, response in ((tree.prompt_ids, ids) for tree in trees for ids in tree.response_ids):
        row = torch.tensor([[*prompt, *response]], device=model.device)
        logits_TV = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        logps.append(_token_logps(logits_TV[len(prompt) - 1 : -1], row[0, len(prompt) :]))
    return torch.cat(logps)


def _token_logps(logits_RV: Tensor, targets_R: Tensor) -> Tensor:
    return torch.log_softmax(logits_RV.double(), dim=-1).gather(-1, targets_R.unsqueeze(-1)).squeeze(-1)


def _largest_difference(packed: Tensor, plain: Tensor) -> float:
    difference = (packed - plain).abs().max().item()
    return difference if math.isfinite(difference) else math.inf
