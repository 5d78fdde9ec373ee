"""Which models can be scored, and which of them in packed trees: what configs say, and probes where they say nothing.

Shapes: N rows, T tokens in a row, R response tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedConfig

from modpo.core.trees import Tree, tree_batch
from modpo.kernels.tree_attention import TreeAttentionError, tree_attention, tree_logits

# Config entries that say how many tokens a layer looks back; which one counts differs from family to family.
WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size", "keep_window_size")
FULL, WINDOWED = "full_attention", frozenset({"sliding_attention", "chunked_attention"})
# Families whose config has `is_decoder`, mostly false, although their attention is causal without it.
CAUSAL_ANYWAY = frozenset({"gpt_neox", "gpt_neox_japanese"})
# What `use_bidirectional_attention` says where text is meant too, and not images alone.
BIDIRECTIONAL_TEXT = (True, "all")
# RoPE whose frequencies depend on the longest sequence of the forward pass: beyond its first length, neighbours matter.
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
NO_LANGUAGE_MODEL = "are not causal language models of transformers itself"
PROBE_SEED = 0
PROBE_LENGTHS = ((7, (5, 9)), (3, (6, 2, 11)), (1, (4,)))
PROBE_BEGINNINGS = (3, 8, 15)


def unloadable_reason(config: PreTrainedConfig) -> str | None:
    """Why transformers has no causal language model for this config, one sentence; None if it has one."""
    if type(config) in AutoModelForCausalLM._model_mapping:
        return None
    return f"{config.model_type} models {NO_LANGUAGE_MODEL}."


def unscorable_reason(config: PreTrainedConfig, longest: int) -> str | None:
    """Why models of this config give no log-probabilities that a training could rely on, one sentence; or None.

    Then a token's log-probability depends on more than the tokens before it. None is no proof for a family that no test
    names: ask `depends_on_others` too.

    Args:
        longest: tokens of the longest prompt with one response that will be trained on.
    """
    found = next(_unscorable_reasons(config, longest), None)
    return found and f"{config.model_type} models {found}."


def unsupported_reason(config: PreTrainedConfig, longest: int) -> str | None:
    """Why models of this config cannot attend packed trees, one sentence; None if nothing speaks against it.

    None is no proof for a family that no test names: ask `agrees_with_plain` too.

    Args:
        longest: tokens of the longest prompt with one response that will be trained on.
    """
    found = next(_reasons(config, longest), None)
    return found and f"{config.model_type} models {found}."


def limited_attention(config: PreTrainedConfig, longest: int) -> str | None:
    """How layers see less than all earlier tokens, as the end of a sentence; None where they see all."""
    return next(_window_reasons(config, longest), None)


def _unscorable_reasons(config: PreTrainedConfig, longest: int) -> Iterator[str]:
    if config.is_encoder_decoder:
        yield "have an encoder, which sees the prompt only"
    if _sees_later_tokens(config):
        yield "let tokens see later ones"
    yield from _rope_reasons(config, longest)


def _sees_later_tokens(config: PreTrainedConfig) -> bool:
    # Files of any family may say `is_decoder: false`, which means something only where the family knows the entry.
    is_encoder = hasattr(type(config), "is_decoder") and not config.is_decoder
    return (
        (is_encoder and config.model_type not in CAUSAL_ANYWAY)
        or not getattr(config, "causal", True)
        or getattr(config, "attn_type", None) == "bi"
        or getattr(config, "use_bidirectional_attention", None) in BIDIRECTIONAL_TEXT
        or bool(getattr(config, "prefix_lm", False))
    )


def _reasons(config: PreTrainedConfig, longest: int) -> Iterator[str]:
    yield from _unscorable_reasons(config, longest)
    yield from _family_reasons(config)
    yield from _mask_reasons(config)
    yield from _window_reasons(config, longest)


def _family_reasons(config: PreTrainedConfig) -> Iterator[str]:
    if config.get_text_config() is not config:
        yield "consist of several models"
    family = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if family is None:
        yield NO_LANGUAGE_MODEL
        return
    if not family.is_backend_compatible():
        yield "do not take their attention from transformers' attention interface"
    if not family._supports_sdpa:
        yield "have attention with soft-capping, sinks or another addition to the plain softmax"
    if "position_ids" not in inspect.signature(family.forward).parameters:
        yield "do not take position ids"


def _mask_reasons(config: PreTrainedConfig) -> Iterator[str]:
    if getattr(config, "alibi", False):
        yield "take positions from a bias on the attention (ALiBi), not from position ids"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        yield "cap their attention logits"
    if getattr(config, "use_bidirectional_attention", False):
        yield "let some tokens see later ones"


def _window_reasons(config: PreTrainedConfig, longest: int) -> Iterator[str]:
    layers = set(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ())
    if strange := layers - {FULL} - WINDOWED:
        yield f"have layers that are no plain attention ({', '.join(sorted(strange))})"
    windows = [w for name in WINDOWS if isinstance(w := getattr(config, name, None), int)]
    if layers != {FULL} and windows and min(windows) < longest:
        yield f"look back {min(windows)} tokens only, and a prompt with its response has up to {longest}"


def _rope_reasons(config: PreTrainedConfig, longest: int) -> Iterator[str]:
    parameters = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one for each type of layer.
    for rope in (parameters, *(nested for nested in parameters.values() if isinstance(nested, Mapping))):
        if rope.get("rope_type") not in LENGTH_DEPENDENT_ROPE:
            continue
        first = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        if first < longest:
            yield (
                f"turn all positions of a row differently once a sequence in it exceeds {first} tokens, and a prompt "
                f"with its response has up to {longest}"
            )


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
    generator = torch.Generator().manual_seed(PROBE_SEED)
    tokens = torch.randint(_vocabulary(model), (max(PROBE_BEGINNINGS),), generator=generator)
    beginnings = [tokens[:length] for length in PROBE_BEGINNINGS]
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
    generator = torch.Generator().manual_seed(PROBE_SEED)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(_vocabulary(model), (length,), generator=generator).tolist())

    return [Tree(tokens(prompt), tuple(tokens(r) for r in responses)) for prompt, responses in PROBE_LENGTHS]


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
