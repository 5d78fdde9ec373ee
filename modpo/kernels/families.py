"""Which models can be scored, and which of them in packed trees, as far as their configs say; `probes` ask the rest."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from transformers import AutoModelForCausalLM, PreTrainedConfig

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
