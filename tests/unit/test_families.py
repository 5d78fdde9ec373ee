"""Every supported family through the one way to score: against its own padded forward pass, and with adapters."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from modpo.config.tree import LoraConfig
from modpo.core.logps import response_logps
from modpo.core.trees import Tree, tree_batch
from modpo.models import attach_adapter
from modpo.scoring import ResponseModel, unpacked
from tests.acceptance.plugin import Accept
from tests.unit.kernels.families import (
    SUPPORTED,
    gradients,
    one_by_one_logps,
    random_trees,
    tiny_config,
    tiny_model,
)

LONGEST = 18
GATED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
# What `all-linear` adapts: attention and feed-forward layers, fused ones among them, and never the output embeddings.
ADAPTED = {
    "gemma": GATED,
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "granite": GATED,
    "llama": GATED,
    "mistral": GATED,
    "olmo2": GATED,
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "qwen2": GATED,
    "qwen3": GATED,
}


def padded_logps(model: torch.nn.Module, trees: list[Tree]) -> Tensor:
    """Whole sequences, padded, with the logits of all positions."""
    batch = unpacked(tree_batch(trees))
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    assert logits.dtype == torch.float64
    return response_logps(logits, batch.labels)


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys() != set()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize("family", SUPPORTED)
def test_packed_rows_give_what_the_padded_forward_pass_gives(family: str, accept: Accept) -> None:
    """Log-probabilities and the gradients of all weights in float64: trees of pairs and triples in one row."""
    model, trees = tiny_model(tiny_config(family)), random_trees((2, 3, 1, 2, 3))
    scored = ResponseModel(model, longest=LONGEST)
    assert scored.is_packed
    logps, expected = scored(tree_batch(trees)), padded_logps(model, trees)
    assert expected.detach().std() > 1
    difference = (logps - expected).abs().max().item()
    accept("V1", "nats between packed rows and padded forward pass", difference, at_most=1e-10)
    packed, padded = gradients(model, logps), gradients(model, expected)
    accept("V1", "largest difference of gradients", worst(packed, padded), at_most=1e-7)
    assert max(float(gradient.abs().max()) for gradient in padded.values()) > 1


class TestAdapter:
    def policy(self, family: str) -> PeftModel:
        return attach_adapter(tiny_model(tiny_config(family)), LoraConfig(r=2, target_modules="all-linear"), seed=0)

    @pytest.mark.parametrize("family", SUPPORTED)
    def test_every_linear_layer_but_the_output_embeddings_has_one(self, family: str) -> None:
        policy = self.policy(family)
        adapted = {name for name, module in policy.named_modules() if hasattr(module, "lora_A")}
        assert {name.rsplit(".", 1)[-1] for name in adapted} == ADAPTED[family]
        model = policy.get_base_model()
        assert isinstance(model, PreTrainedModel)
        assert not hasattr(model.get_output_embeddings(), "lora_A")
        layers = [name for name in adapted if ".1." in name]
        assert len(adapted) == 2 * len(layers), "both layers have the same ones"

    @pytest.mark.parametrize("family", SUPPORTED)
    def test_each_of_them_changes_what_the_model_says(self, family: str) -> None:
        """An adapter that is fresh changes no bit; one trained layer of any kind changes the log-probabilities."""
        policy, trees = self.policy(family).double(), tree_batch(random_trees((2, 1)))
        scored, generator = ResponseModel(policy, longest=LONGEST), torch.Generator().manual_seed(1)
        assert scored.is_packed
        with torch.no_grad(), policy.disable_adapter():
            before = scored(trees)
        with torch.no_grad():
            assert torch.equal(scored(trees), before)
            for name, parameter in policy.named_parameters():
                if "lora_B" not in name:
                    continue
                parameter.normal_(generator=generator)
                assert (scored(trees) - before).abs().max() > 1e-3, name
                parameter.zero_()


@pytest.mark.parametrize(("family", "settings"), [("bloom", {}), ("mpt", {}), ("falcon", {"alibi": True})])
def test_positions_from_a_bias_are_padded_and_right(family: str, settings: dict[str, bool], accept: Accept) -> None:
    """ALiBi: against each sequence in a forward pass of its own, without padding and without company."""
    model, trees = tiny_model(tiny_config(family, **settings)), random_trees((2, 3, 1, 2, 3))
    scored = ResponseModel(model, longest=LONGEST)
    assert not scored.is_packed
    batch = tree_batch(trees)
    tokens = one_by_one_logps(model, trees)
    expected = torch.zeros(batch.num_responses, dtype=torch.float64).index_add(0, batch.owners, tokens)
    logps = scored(batch)
    assert expected.detach().std() > 1
    # Bloom's softmax and MPT's bias are float32 in a float64 model too: a rounding or two of it are left.
    difference = (logps - expected).abs().max().item()
    accept("V1", "nats between a padded family and single sequences", difference, at_most=1e-6)
    padded, single = gradients(model, logps), gradients(model, expected)
    accept("V1", "largest difference of a padded family's gradients", worst(padded, single), at_most=1e-5)
