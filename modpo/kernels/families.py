"""Which models can be scored in packed trees: what their configs say, and a probe for those that say nothing.

Shapes: T tokens in the row, R response tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from modpo.core.trees import Tree, tree_batch
from modpo.kernels.tree_attention import TreeAttentionError, tree_attention, tree_logits

# Config entries that say how many tokens a layer looks back; which one counts differs from family to family.
WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size", "keep_window_size")
FULL, WINDOWED = "full_attention", frozenset({"sliding_attention", "chunked_attention"})
# Families whose config has `is_decoder`, mostly false, although their attention is causal without it.
CAUSAL_ANYWAY = frozenset({"gpt_neox"})
# RoPE whose frequencies depend on the longest sequence of the forward pass: beyond its first length, neighbours matter.
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
PROBE_SEED = 0
PROBE_LENGTHS = ((7, (5, 9)), (3, (6, 2, 11)), (1, (4,)))


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


def _reasons(config: PreTrainedConfig, longest: int) -> Iterator[str]:
    yield from _family_reasons(config)
    yield from _mask_reasons(config)
    yield from _window_reasons(config, longest)
    yield from _rope_reasons(config, longest)


def _family_reasons(config: PreTrainedConfig) -> Iterator[str]:
    if config.is_encoder_decoder:
        yield "have an encoder, which sees the prompt only"
    if config.get_text_config() is not config:
        yield "consist of several models"
    family = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if family is None:
        yield "are not causal language models of transformers itself"
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
    causal = getattr(config, "is_decoder", True) or config.model_type in CAUSAL_ANYWAY
    if not causal or getattr(config, "use_bidirectional_attention", False) or getattr(config, "prefix_lm", False):
        yield "let tokens see later ones"


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
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        trees = _probe_trees(model)
        return _largest_difference(_packed_logps(model, trees), _plain_logps(model, trees))
    finally:
        for module, mode in training:
            module.training = mode


def _probe_trees(model: Any) -> list[Tree]:
    """Trees of tokens from the model's vocabulary, the same for every call."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    size = model.config.get_text_config().vocab_size

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(size, (length,), generator=generator).tolist())

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
