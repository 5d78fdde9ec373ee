"""The head in whole models, tiny and random: each family's factor, shared and tied parameters, sums per response."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import Linear, ModuleDict
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from modpo.kernels.head import DIVIDED_BY, MULTIPLIED_BY, UNSCALED, ResponseHead, head_scale, response_sums

VOCABULARY = 40
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
# What a family needs beside `SIZES`, or what makes its factor another number than 1.
SETTINGS: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": None},  # attention is capped all the same
    "gemma3_text": {"head_dim": 8},
    "gpt_neo": {"num_layers": 1, "attention_types": [[["global"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granite": {"logits_scaling": 3.0},
    "granitemoe": {"logits_scaling": 3.0, "num_local_experts": 4, **EXPERTS},
    "hyperclovax": {"logits_scaling": 0.3},
    "minicpm3": {
        **{"dim_model_base": 4, "q_lora_rank": 8, "kv_lora_rank": 8},
        **{"qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8},
    },
    "ministral": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4, **EXPERTS},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 8},
    "qwen2_moe": {"num_experts": 4, **EXPERTS},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
}
SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"max_position_embeddings": 32, "intermediate_size": 24, "num_key_value_heads": 2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def tiny_model(family: str, **settings: Any) -> PreTrainedModel:
    """In float64, with weights so large that its logits are far from uniform."""
    config = AutoConfig.for_model(family, **SIZES, **SETTINGS.get(family, {}), **settings)
    # The grouped products of experts have no float64.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, experts_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    assert isinstance(model, PreTrainedModel)
    return model


def token_ids() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


def own_logps(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Log-probabilities of all tokens but the first (2 * 6,), from the model's own logits."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    assert logits.dtype == torch.float64
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).flatten()


def head_logps(model: PreTrainedModel, head: ResponseHead, ids: Tensor) -> Tensor:
    """The same from the hidden states below the output embeddings."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logps: Tensor = head(hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return logps


def response_head(model: PreTrainedModel) -> ResponseHead:
    scale = head_scale(model.config)
    assert scale is not None
    return ResponseHead(model.get_output_embeddings(), scale=scale)


class TestFamilies:
    @pytest.mark.parametrize("family", sorted(UNSCALED | DIVIDED_BY.keys() | MULTIPLIED_BY.keys()))
    def test_equal_to_the_models_own_logits(self, family: str) -> None:
        model, ids = tiny_model(family), token_ids()
        with torch.no_grad():
            own, ours = own_logps(model, ids), head_logps(model, response_head(model), ids)
        assert own.std() > 0.1
        assert (own - ours).abs().max() < 1e-10

    def test_factors_by_hand(self) -> None:
        """Granite divides by 3; MiniCPM divides by hidden size 16 over base 4; the others multiply by 0.3."""
        found = {family: head_scale(tiny_model(family).config) for family in [*DIVIDED_BY, *MULTIPLIED_BY]}
        assert found == pytest.approx(
            {
                **{"granite": 1 / 3, "granitemoe": 1 / 3, "minicpm3": 1 / 4},
                **{"cohere": 0.3, "cohere2": 0.3, "hyperclovax": 0.3},
            }
        )

    @pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
    def test_capped_logits_have_no_factor(self, family: str) -> None:
        config = AutoConfig.for_model(family)
        config.final_logit_softcapping = 30.0
        assert head_scale(config) is None

    def test_gemma2_caps_its_logits_unless_told_otherwise(self) -> None:
        assert head_scale(AutoConfig.for_model("gemma2")) is None

    @pytest.mark.parametrize(
        "family", ["falcon_h1", "mamba", "nanochat", "recurrent_gemma", "t5", "vaultgemma", "xlm-roberta", "xlstm"]
    )
    def test_families_that_nobody_looked_at_have_no_factor(self, family: str) -> None:
        """Some of them cap, some multiply, some do nothing."""
        assert head_scale(AutoConfig.for_model(family)) is None

    def test_a_factor_that_is_not_set_is_not_1(self) -> None:
        assert head_scale(AutoConfig.for_model("cohere", logit_scale=None)) is None


class TestResponseHead:
    @pytest.mark.parametrize("family", ["phi", "llama"])
    def test_parameters_are_the_models_own(self, family: str) -> None:
        """Phi's head has a bias, Llama's has none."""
        model = tiny_model(family)
        embeddings, head = model.get_output_embeddings(), response_head(model)
        assert head.weight is embeddings.weight
        assert head.bias is embeddings.bias
        assert [name for name, _ in head.named_parameters()] == (["weight", "bias"] if family == "phi" else ["weight"])

    def test_a_parent_has_them_once(self) -> None:
        model = tiny_model("phi")
        parent = ModuleDict({"model": model, "head": response_head(model)})
        names = [f"model.{name}" for name, _ in model.named_parameters()]
        assert [name for name, _ in parent.named_parameters()] == names
        assert list(parent.state_dict()) == [f"model.{name}" for name in model.state_dict()]

    def test_a_parent_is_loaded_from_its_state(self) -> None:
        model, other = tiny_model("phi"), tiny_model("phi")
        with torch.no_grad():
            other.get_output_embeddings().weight.fill_(7)
        parent = ModuleDict({"model": model, "head": response_head(model)})
        found = parent.load_state_dict({f"model.{name}": tensor for name, tensor in other.state_dict().items()})
        assert not found.missing_keys and not found.unexpected_keys
        assert (response_head(model).weight == 7).all()
        assert model.get_output_embeddings().weight is parent["head"].weight

    def test_a_change_of_dtype_keeps_them_together(self) -> None:
        model = tiny_model("phi")
        parent = ModuleDict({"model": model, "head": response_head(model)}).to(torch.bfloat16)
        assert parent["head"].weight is model.get_output_embeddings().weight
        assert parent["head"].weight.dtype == torch.bfloat16

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("family", ["llama", "cohere"])
    def test_gradients_of_all_parameters_are_those_of_the_models_own_logits(self, family: str, tied: bool) -> None:
        """Tied embeddings have the sum of both of their uses."""
        model, ids = tiny_model(family, tie_word_embeddings=tied), token_ids()
        head = response_head(model)
        assert (head.weight is model.get_input_embeddings().weight) == tied
        weights = torch.linspace(-1, 2, 12, dtype=torch.float64)
        own = torch.autograd.grad((own_logps(model, ids) * weights).sum(), list(model.parameters()))
        ours = torch.autograd.grad((head_logps(model, head, ids) * weights).sum(), list(model.parameters()))
        assert all(gradient.abs().max() > 1e-6 for gradient in own)
        assert max((a - b).abs().max().item() for a, b in zip(own, ours, strict=True)) < 1e-9

    def test_output_embeddings_with_an_adapter_are_refused(self) -> None:
        adapted = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["lm_head"]))
        with pytest.raises(
            ValueError, match=r"^output embeddings: got peft\.\S+\.Linear, wanted a plain torch\.nn\.Linear$"
        ):
            ResponseHead(adapted.get_output_embeddings())

    def test_a_plain_layer_of_the_same_sizes_is_taken(self) -> None:
        layer = Linear(4, 6)
        head, targets = ResponseHead(layer, scale=0.5), torch.arange(6)
        hidden = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        logps = torch.log_softmax(0.5 * layer(hidden), -1)
        assert head(hidden, targets).tolist() == pytest.approx(logps.diag().tolist(), abs=1e-6)


class TestResponseSums:
    def test_equal_to_a_loop(self) -> None:
        logps = -torch.rand(50, generator=torch.Generator().manual_seed(0))
        owners = torch.arange(50) * 7 % 4
        loop = [
            sum(value for value, owner in zip(logps.tolist(), owners.tolist(), strict=True) if owner == n)
            for n in range(5)
        ]
        sums = response_sums(logps, owners, 5)
        assert sums.dtype == torch.float64
        assert sums.tolist() == pytest.approx(loop, abs=1e-13)
        assert sums[4].item() == 0

    def test_a_token_has_the_gradient_of_its_response(self) -> None:
        logps = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        response_sums(logps, torch.tensor([2, 0, 0, 2]), 3).backward(torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64))
        assert logps.grad is not None and logps.grad.tolist() == [7, 5, 5, 7]
