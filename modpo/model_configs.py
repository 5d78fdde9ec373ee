"""What a model's config says before its weights are loaded: without PEFT, whose import takes longer than the check."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from modpo.config.tree import ModelConfig
from modpo.data.tokenize import load_tokenizer
from modpo.errors import InputError, Problem, shown
from modpo.kernels.families import unloadable_reason, unscorable_reason
from modpo.model_files import UNLOADABLE, loading_problem


def check_loadable(config: ModelConfig, *, longest: int) -> None:
    """Loads the model's config and tokenizer, without its weights.

    Args:
        longest: tokens of the longest prompt with one response that will be trained on.

    Raises:
        InputError: one of them cannot be loaded, or models of this kind cannot be scored.
    """
    try:
        found = read_config(config.name_or_path, config.revision)
    except UNLOADABLE as error:
        problem = loading_problem(not_loadable(str(error)), error, shown(config.name_or_path))
        raise InputError(problem) from error
    if reason := unscorable_reason(found, longest) or unloadable_reason(found):
        raise InputError(not_scorable(reason))
    load_tokenizer(config.name_or_path, config.revision)


def layer_size(config: ModelConfig, *, path: str) -> tuple[int, int] | None:
    """Hidden size and, nearly, weights of one decoder layer of the model at `path`; only its config is loaded.

    None where the config has no hidden size.
    """
    found = read_config(path, config.revision).get_text_config()
    width: int | None = getattr(found, "hidden_size", None)
    if width is None:
        return None
    inner: int = getattr(found, "intermediate_size", None) or 4 * width
    # Four matrices of the attention and three of the part behind it: with shared heads or two matrices it is less.
    return width, width * (4 * width + 3 * inner)


def read_config(name: str, revision: str | None) -> Any:
    """As transformers has it; the class is that of the family."""
    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def not_scorable(reason: str) -> Problem:
    return Problem(
        code="MS-162",
        what="the model's log-probabilities cannot be trained on",
        where="model.name_or_path",
        got=reason,
        wanted="a causal language model: a token's log-probability depends on the tokens before it and on nothing else",
        remedy="take another model; where a length is named, lower data.max_length",
    )


def not_loadable(reason: str) -> Problem:
    return Problem(
        code="MS-161",
        what="the model cannot be loaded",
        where="model.name_or_path",
        got=" ".join(reason.split())[:200],
        wanted="a causal language model, on disk or on a hub that this machine can reach",
        remedy="check the name and the network, or give a local folder",
    )
