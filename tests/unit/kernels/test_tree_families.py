"""Which families may be packed into trees: those that compute the same, and why the others may not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import BartConfig
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from modpo.kernels.families import unsupported_reason
from modpo.kernels.probes import agrees_with_plain
from modpo.kernels.tree_attention import tree_attention
from tests.unit.kernels.families import assert_routes_agree, random_trees, tiny_config, tiny_model

pytestmark = pytest.mark.usefixtures("either_way")

# With grouped heads wherever the family has them; gemma has one key-value head.
EXACT = (
    *("cohere", "gemma", "gpt2", "gpt_neox", "gptj", "granite", "llama", "mistral"),
    *("olmo2", "opt", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2"),
)
LONGEST = 18


@pytest.fixture(autouse=True)
def float64_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere turns its queries and keys in float32, others in their own dtype."""
    monkeypatch.setattr(modeling_cohere, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)


@pytest.mark.parametrize("family", EXACT)
class TestExact:
    def test_equal_to_one_by_one(self, family: str) -> None:
        """Log-probabilities and the gradients of all parameters, pairs and triples shuffled in one row."""
        model = tiny_model(tiny_config(family))
        assert_routes_agree(model, random_trees((2, 3, 1, 2, 3)))

    def test_accepted(self, family: str) -> None:
        config = tiny_config(family)
        assert unsupported_reason(config, LONGEST) is None
        assert agrees_with_plain(tiny_model(config)) < 1e-12


NO_INTERFACE = "do not take their attention from transformers' attention interface."
ADDED = "have attention with soft-capping, sinks or another addition to the plain softmax."
# Up to this many tokens the frequencies are the short ones.
ROPE_CHANGES_AT = "original_max_position_embeddings"
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


class TestReasons:
    @pytest.mark.parametrize(
        ("family", "settings", "reason"),
        [
            ("falcon", {}, NO_INTERFACE),
            ("bloom", {}, NO_INTERFACE),
            ("mpt", {}, NO_INTERFACE),
            ("mamba", {}, NO_INTERFACE),
            ("gemma2", {}, ADDED),
            ("gpt_oss", {}, ADDED),
            ("bert", {}, "let tokens see later ones."),
            ("gemma", {"use_bidirectional_attention": True}, "let tokens see later ones."),
            ("gemma3_text", {"attn_logit_softcapping": 50.0}, "cap their attention logits."),
            ("gemma3", {}, "consist of several models."),
            ("vit", {}, "are not causal language models of transformers itself."),
            ("lfm2", {"layer_types": ["conv", "full_attention"]}, "have layers that are no plain attention (conv)."),
            (
                "mistral",
                {"sliding_window": 17},
                "look back 17 tokens only, and a prompt with its response has up to 18.",
            ),
            (
                "qwen2",
                {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
                "look back 4 tokens only, and a prompt with its response has up to 18.",
            ),
            (
                "llama4_text",
                {"attention_chunk_size": 16},
                "look back 16 tokens only, and a prompt with its response has up to 18.",
            ),
            (
                "phi3",
                {"rope_parameters": LONGROPE, ROPE_CHANGES_AT: 16},
                "turn all positions of a row differently once a sequence in it exceeds 16 tokens, "
                "and a prompt with its response has up to 18.",
            ),
        ],
    )
    def test_the_whole_sentence(self, family: str, settings: dict[str, Any], reason: str) -> None:
        assert unsupported_reason(tiny_config(family, **settings), LONGEST) == f"{family} models {reason}"

    def test_encoder_and_decoder(self) -> None:
        assert unsupported_reason(BartConfig(), LONGEST) == "bart models have an encoder, which sees the prompt only."

    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            ("mistral", {"sliding_window": LONGEST}),
            ("qwen2", {"use_sliding_window": True, "sliding_window": LONGEST, "max_window_layers": 1}),
            ("qwen2", {"use_sliding_window": False, "sliding_window": 4}),
            ("phi3", {"rope_parameters": LONGROPE, ROPE_CHANGES_AT: LONGEST}),
        ],
    )
    def test_a_window_that_no_sequence_fills_is_none(self, family: str, settings: dict[str, Any]) -> None:
        """The last token of `LONGEST` looks back `LONGEST` tokens, itself included: that is the window that fits."""
        config = tiny_config(family, **settings)
        assert unsupported_reason(config, LONGEST) is None
        trees = random_trees((2, 2, 2))
        assert max(len(tree.prompt_ids) + len(ids) for tree in trees for ids in tree.response_ids) > 4
        assert_routes_agree(tiny_model(config), trees)


class TestProbe:
    @pytest.mark.parametrize(
        "family",
        [
            "bloom",  # ignores the interface, and has ALiBi
            "falcon",  # cannot do without a mask
            "gemma2",  # asks for soft-capping
            "nemotron",  # does not hand the layout down, which no flag of the family says
            "roberta",  # counts positions from behind the padding's id, which no flag says either
        ],
    )
    def test_a_wrong_family_is_found_when_it_is_forced_through(self, family: str) -> None:
        found = agrees_with_plain(tiny_model(tiny_config(family)))
        print(f"{family}: {found:.3g}")
        assert found > 0.2

    def test_a_window_shorter_than_its_sequences_is_found(self) -> None:
        assert agrees_with_plain(tiny_model(tiny_config("mistral", sliding_window=8))) == math.inf

    def test_a_model_that_is_nan_agrees_with_nothing(self) -> None:
        model = tiny_model(tiny_config("llama"))
        model.get_input_embeddings().weight.data.fill_(math.nan)
        assert agrees_with_plain(model) == math.inf

    def test_rounding_in_float32_is_far_below_a_wrong_family(self) -> None:
        assert 0 < agrees_with_plain(tiny_model(tiny_config("llama")).float()) < 1e-4

    def test_the_model_is_left_as_it_was(self) -> None:
        """Training or not, module by module; its config, gradients and the global random state."""
        model = tiny_model(tiny_config("llama", attention_dropout=0.5)).train()
        model.get_output_embeddings().eval()
        modes, config, state = [m.training for m in model.modules()], model.config, torch.get_rng_state()
        first = agrees_with_plain(model)
        assert first < 1e-12
        assert [m.training for m in model.modules()] == modes
        assert len(set(modes)) == 2
        assert model.config is config
        assert torch.equal(torch.get_rng_state(), state)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert agrees_with_plain(model) == first

    def test_it_may_be_asked_while_trees_are_on(self) -> None:
        """Nothing but trees can go then, so it says so and does not compare trees with themselves."""
        model = tiny_model(tiny_config("llama"))
        with tree_attention(model), pytest.raises(ValueError, match="modpo_layout"):
            agrees_with_plain(model)
