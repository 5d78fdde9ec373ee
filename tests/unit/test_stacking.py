"""Policies that share a frozen model in one forward pass: each scores and learns as it does alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from modpo.core.trees import TreeBatch, tree_batch
from modpo.kernels import tree_attention
from modpo.kernels.stacked_lora import NotStackableError, StackedLora
from modpo.models import checkpoint_activations
from modpo.scoring import ResponseModel
from modpo.stacking import StackedResponseModel
from tests.unit.kernels.families import random_trees, tiny_config, tiny_model

NO_DROPOUT = dict.fromkeys(
    ("dropout", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "residual_dropout"), 0.0
)
# Fused projections (gpt_neox, phi3), GPT-2's transposed layers, biases, one key-value head (gemma), tied embeddings.
FAMILIES = ("cohere", "gemma", "gpt2", "gpt_neox", "gptj", "granite", "llama", "mistral", "olmo2", "phi3")
FAMILIES += ("qwen2", "qwen3", "smollm3", "starcoder2")
NUM_POLICIES = 3
LONGEST = 18


@pytest.fixture(autouse=True)
def float64_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere turns its queries and keys in float32, others in their own dtype."""
    monkeypatch.setattr(modeling_cohere, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)


def adapted(family: str, *, dtype: torch.dtype = torch.float64, lora: dict[str, Any] | None = None) -> PeftModel:
    """The same frozen random model at every call, under a fresh adapter."""
    model = tiny_model(tiny_config(family, **NO_DROPOUT)).to(dtype)
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 5, "target_modules": "all-linear"} | (lora or {})
    settings["fan_in_fan_out"] = family == "gpt2"
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).to(dtype)


def trained(policy: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def fill(parameter: Tensor, *, policy: int, name: str) -> None:
    """Values of their own for every policy and matrix, the same for a slice and for a whole."""
    generator = torch.Generator().manual_seed(policy * 1_000_003 + sum(map(ord, name)))
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def learned(model: ResponseModel, batch: TreeBatch, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities, and the gradients of their weighted sum."""
    logps = model(batch)
    (logps * weights).sum().backward()
    return logps.detach(), {name: p.grad for name, p in trained(model.policy).items() if p.grad is not None}


def weights_of(batch: TreeBatch) -> Tensor:
    """(P, N): every response of every policy has its own."""
    weights = torch.linspace(-1, 1, NUM_POLICIES * batch.num_responses, dtype=torch.float64)
    return weights.view(NUM_POLICIES, -1)


def alone(policy: PeftModel, number: int, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    for name, parameter in trained(policy).items():
        fill(parameter, policy=number, name=name)
    model = ResponseModel(policy, longest=LONGEST)
    assert model.is_packed
    return learned(model, batch, weights_of(batch)[number])


def together(policy: PeftModel, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    model = StackedResponseModel(policy, longest=LONGEST, num_policies=NUM_POLICIES)
    for name, parameter in trained(policy).items():
        assert len(parameter) == NUM_POLICIES
        for number in range(NUM_POLICIES):
            fill(parameter[number], policy=number, name=name)
    return learned(model, batch, weights_of(batch))


def assert_equal_to_separate(make: Any, batch: TreeBatch, tolerance: float) -> None:
    """Log-probabilities and every gradient of every policy, relative to the largest number of each."""
    logps, gradients = together(make(), batch)
    assert logps.shape == (NUM_POLICIES, batch.num_responses)
    worst = 0.0
    for number in range(NUM_POLICIES):
        expected, expected_gradients = alone(make(), number, batch)
        assert gradients.keys() == expected_gradients.keys() != set()
        pairs = [(logps[number], expected)]
        pairs += [(gradients[name][number], gradient) for name, gradient in expected_gradients.items()]
        for found, wanted in pairs:
            assert found.shape == wanted.shape and wanted.abs().max() > 1e-5
            worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max()))
    print(f"largest difference {worst:.1e}")
    assert worst <= tolerance
    assert (logps[0] - logps[1]).abs().max() > 0.1, "the policies must not be the same"


@pytest.fixture
def batch() -> TreeBatch:
    return tree_batch(random_trees((2, 3, 1, 2)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("small_tree", [0, 10_000], ids=["tree-by-tree", "one-batch"])
def test_equal_to_separate_passes_in_float64(
    family: str, small_tree: int, batch: TreeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_attention, "SMALL_TREE", small_tree)
    assert_equal_to_separate(lambda: adapted(family), batch, 1e-10)


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("llama", {"target_modules": ["down_proj", "v_proj"], "r": 5, "lora_alpha": 0.5}),
        ("llama", {"target_modules": r".*layers\.1\..*_proj", "r": 1}),
        ("opt", {"target_modules": ["q_proj", "v_proj"]}),
    ],
    ids=["mlp-and-values", "upper-layer", "attention-of-opt"],
)
def test_odd_targets_and_scales(family: str, lora: dict[str, Any], batch: TreeBatch) -> None:
    assert_equal_to_separate(lambda: adapted(family, lora=lora), batch, 1e-10)


def test_close_in_float32(batch: TreeBatch) -> None:
    assert_equal_to_separate(lambda: adapted("llama", dtype=torch.float32), batch, 1e-4)


def test_checkpointed_activations(batch: TreeBatch) -> None:
    def make() -> PeftModel:
        policy = adapted("llama").train()
        checkpoint_activations(policy.get_base_model())
        return policy

    assert_equal_to_separate(make, batch, 1e-10)


def test_float32_adapters_on_a_bfloat16_model_round_where_they_do_alone() -> None:
    """One layer: A and B stay float32, and the sum is rounded to the model's bfloat16 once."""
    generator = torch.Generator().manual_seed(0)
    frozen = torch.nn.Linear(6, 5, dtype=torch.bfloat16).requires_grad_(False)
    first, second = (torch.randn(shape, generator=generator) for shape in ((2, 6), (5, 2)))
    layer = StackedLora(frozen, first, second, num_policies=2, scaling=0.5, name="default")
    inputs = torch.randn(2, 4, 6, generator=generator).bfloat16()
    expected = (frozen(inputs).float() + 0.5 * inputs.float() @ first.T @ second.T).bfloat16()
    assert layer(inputs).dtype == torch.bfloat16
    assert torch.equal(layer(inputs), expected)


def test_all_start_where_the_one_stood_under_its_names() -> None:
    policy, same = adapted("llama"), adapted("llama")
    for name, parameter in trained(policy).items():
        fill(parameter, policy=7, name=name)
        fill(trained(same)[name], policy=7, name=name)
    StackedResponseModel(policy, longest=LONGEST, num_policies=2)
    assert trained(policy).keys() == trained(same).keys()
    for name, parameter in trained(policy).items():
        assert torch.equal(parameter, trained(same)[name].expand(2, -1, -1))


class TestRefused:
    def refusal(self, policy: PeftModel) -> str:
        with pytest.raises(NotStackableError) as caught:
            StackedResponseModel(policy, longest=LONGEST, num_policies=2)
        return str(caught.value)

    def test_a_family_that_is_padded(self) -> None:
        model = tiny_model(tiny_config("bloom")).float()
        policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
        assert self.refusal(policy) == "its responses are scored one by one and padded."

    def test_dropout_of_the_model(self) -> None:
        model = tiny_model(tiny_config("gpt2"))
        policy = get_peft_model(model, LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True))
        modes = [module.training for module in model.modules()]
        assert self.refusal(policy) == "the model draws random numbers in training, as dropout does."
        assert {module.training for module in policy.modules()} == set(modes)

    def test_dropout_of_the_adapter(self) -> None:
        policy = adapted("llama", lora={"lora_dropout": 0.1})
        assert self.refusal(policy).startswith("more than plain LoRA layers trains, such as base_model.model.")

    def test_an_adapter_on_the_embeddings(self) -> None:
        policy = adapted("llama", lora={"target_modules": ["embed_tokens", "q_proj"]})
        assert "embed_tokens" in self.refusal(policy)

    def test_a_family_whose_layers_see_all_tokens_in_one_heap(self) -> None:
        assert self.refusal(adapted("opt")) == (
            "a layer with an adapter gets inputs of shape (18, 32), not a row for each of 2 policies."
        )

    def test_a_layer_that_does_not_get_a_row_for_each_policy(self) -> None:
        """As an expert, which sees some tokens of all rows."""
        frozen, first, second = torch.nn.Linear(3, 3), torch.zeros(1, 3), torch.zeros(3, 1)
        layer = StackedLora(frozen, first, second, num_policies=2, scaling=1.0, name="default")
        with pytest.raises(NotStackableError) as caught:
            layer(torch.zeros(8, 3))
        assert str(caught.value) == (
            "a layer with an adapter gets inputs of shape (8, 3), not a row for each of 2 policies."
        )
