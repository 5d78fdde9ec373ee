"""Which models are refused: those whose log-probabilities depend on more than the tokens before."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from modpo.kernels.families import unloadable_reason, unscorable_reason
from modpo.kernels.probes import depends_on_others
from tests.acceptance.plugin import Accept
from tests.unit.kernels.families import SUPPORTED, tiny_config, tiny_model

Settings = dict[str, Any]

LONGEST = 18
ENCODER = "have an encoder, which sees the prompt only."
LATER = "let tokens see later ones."
TURNS = (
    "turn all positions of a row differently once a sequence in it exceeds {} tokens, "
    "and a prompt with its response has up to 18."
)
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}

REFUSED: list[tuple[str, Settings, str]] = [
    ("t5", {}, ENCODER),
    ("bart", {}, ENCODER),
    ("marian", {}, ENCODER),
    ("whisper", {}, ENCODER),
    ("bert", {}, LATER),
    ("roberta", {"is_decoder": False}, LATER),
    ("electra", {}, LATER),
    ("xlnet", {}, LATER),
    ("xlm", {}, LATER),
    ("hrm_text", {}, LATER),
    ("gemma3_text", {"use_bidirectional_attention": True}, LATER),
    ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 16}, TURNS.format(16)),
    ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 17}, TURNS.format(17)),
]


class TestConfigs:
    @pytest.mark.parametrize(("family", "settings", "reason"), REFUSED)
    def test_the_whole_sentence(self, family: str, settings: Settings, reason: str) -> None:
        config = tiny_config(family, **settings) if settings else AutoConfig.for_model(family)
        assert unscorable_reason(config, LONGEST) == f"{family} models {reason}"

    @pytest.mark.parametrize("family", ["distilbert", "modernbert", "t5", "vit"])
    def test_families_without_a_causal_language_model(self, family: str) -> None:
        found = unloadable_reason(AutoConfig.for_model(family))
        assert found == f"{family} models are not causal language models of transformers itself."

    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            *((family, {}) for family in SUPPORTED),
            *((family, {}) for family in ("bloom", "falcon", "gemma2", "mamba", "mpt", "opt", "roberta")),
            # What a file says that its family knows nothing of.
            ("llama", {"is_decoder": False}),
            ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": LONGEST}),
        ],
    )
    def test_nothing_speaks_against_the_others(self, family: str, settings: Settings) -> None:
        assert unscorable_reason(tiny_config(family, **settings), LONGEST) is None


class TestProbe:
    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            *((family, {}) for family in (*SUPPORTED, "bloom", "gemma2", "mamba", "opt", "rwkv")),
            *(("falcon", {"alibi": alibi}) for alibi in (False, True)),
            ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 4}),
            ("mistral", {"sliding_window": 4}),
            ("roberta", {"is_decoder": True}),
        ],
    )
    def test_causal_families_depend_on_nothing_else(self, family: str, settings: Settings, accept: Accept) -> None:
        """State spaces, biases, windows and caps among them."""
        found = depends_on_others(tiny_model(tiny_config(family, **settings)))
        accept("V3", "nats that other tokens make in causal families", found, at_most=1e-10)

    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            ("bert", {}),
            ("electra", {}),
            ("roberta", {"is_decoder": False}),
            ("xlm", {"n_layers": 2, "n_heads": 4, "emb_dim": 32}),
            # A prompt that sees itself in both directions, which its config does not say.
            ("cpmant", {"dim_model": 32, "dim_ff": 48, "dim_head": 8}),
            # Frequencies of the longest sequence of a batch, for every row.
            ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 9}),
            ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 9}),
        ],
    )
    def test_others_are_found_when_no_config_is_asked(self, family: str, settings: Settings, accept: Accept) -> None:
        found = depends_on_others(tiny_model(tiny_config(family, **settings)))
        accept("V3", "nats that other tokens make in families that are refused", found, at_least=1e-2)

    def test_a_bias_that_a_family_makes_in_float32_is_rounded_by_the_length(self) -> None:
        assert 0 < depends_on_others(tiny_model(tiny_config("mpt"))) < 1e-6

    def test_in_float32_nothing_but_rounding(self) -> None:
        assert 0 < depends_on_others(tiny_model(tiny_config("bloom")).float()) < 1e-4

    def test_a_model_that_is_nan_is_found(self) -> None:
        model = tiny_model(tiny_config("bloom"))
        model.get_input_embeddings().weight.data.fill_(math.nan)
        assert depends_on_others(model) == math.inf

    def test_the_model_is_left_as_it_was(self) -> None:
        model = tiny_model(tiny_config("bloom", hidden_dropout=0.5)).train()
        model.get_output_embeddings().eval()
        modes, state = [m.training for m in model.modules()], torch.get_rng_state()
        first = depends_on_others(model)
        assert first < 1e-10
        assert [m.training for m in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)
        assert depends_on_others(model) == first
