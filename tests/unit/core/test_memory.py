"""The memory of a rank, by hand; tests/deepspeed/test_memory.py holds the states against what DeepSpeed takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from modpo.config.tree import LoraConfig, ModelConfig
from modpo.core.memory import ModelTensors, Partition, activation_bytes, rank_memory
from modpo.core.trees import Tree, tree_batch
from modpo.models import DTYPES, attach_adapter, checkpoint_activations, policy_tensors
from modpo.scoring import ResponseModel

MILLION = 10**6


def seven_billion(*, lora: bool) -> ModelTensors:
    """Round numbers: 7 billion weights in bfloat16, in 32 layers, or 40 million of an adapter beside them."""
    return ModelTensors(
        trained=(40 * MILLION,) if lora else (7000 * MILLION,),
        frozen=(7000 * MILLION,) if lora else (),
        quantised=0,
        dtype_bytes=2,
        trained_bytes=4 if lora else 2,
        hidden=4096,
        inner=11008,
        layers=32,
    )


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [
        # 14 GB and 2 of gradients a weight; 12 bytes of masters and moments each, or an eighth of that.
        (0, 14_000, 14_000, 84_000),
        (1, 14_000, 28_000, 10_500),
        (2, 14_000, 1_750, 10_500),
        (3, 1_750, 1_750, 10_500),
    ],
)
def test_all_weights_of_7_billion_on_8_ranks(stage: int, weights: int, gradients: int, optimizer: int) -> None:
    memory = rank_memory(seven_billion(lora=False), Partition(stage, 8), tokens=0, checkpointing=True)
    found = (memory.weights, memory.gradients, memory.optimizer)
    assert found == tuple(number * MILLION for number in (weights, gradients, optimizer))


def test_an_adapter_costs_little_beside_its_frozen_base() -> None:
    """14 GB, and of 40 million numbers 4 bytes each for weight and gradient and 8 for its moments."""
    memory = rank_memory(seven_billion(lora=True), Partition(0, 1), tokens=0, checkpointing=True)
    assert (memory.states, memory.buffers, memory.host) == ((14_000 + 640) * MILLION, 0, 0)


def test_what_is_offloaded_is_on_the_host() -> None:
    """12 bytes of optimiser for an eighth of the weights; with the parameters also 2 of each of an eighth."""
    tensors = seven_billion(lora=False)
    optimizer = rank_memory(tensors, Partition(2, 8, offload_optimizer=True), tokens=0, checkpointing=True)
    assert (optimizer.optimizer, optimizer.host) == (0, 10_500 * MILLION)
    everything = Partition(3, 8, offload_optimizer=True, offload_parameters=True)
    both = rank_memory(tensors, everything, tokens=0, checkpointing=True)
    assert (both.weights, both.optimizer, both.host) == (0, 0, 12_250 * MILLION)


def test_weights_in_4_bits_take_a_little_more_than_half_a_byte() -> None:
    """64 numbers: 32 bytes, and one for their scale, which 256 such blocks share four bytes for."""
    tensors = ModelTensors((), (1000,), 64 * 256 * 10, 2, 4, hidden=1, inner=1, layers=1)
    memory = rank_memory(tensors, Partition(0, 1), tokens=0, checkpointing=True)
    assert memory.weights == 2000 + (32 + 1) * 256 * 10 + 4 * 10


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_a_packed_step_keeps(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, lora: bool, checkpointing: bool
) -> None:
    """Within a quarter less and a half more of what the forward pass of a small Llama keeps for its backward pass."""
    folder = tmp_path_factory.mktemp("llama")
    shape = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 6, "num_attention_heads": 4}
    LlamaConfig(vocab_size=256, **shape).save_pretrained(folder)
    config = ModelConfig(name_or_path=str(folder), dtype=dtype, lora=LoraConfig(r=4) if lora else None)
    trees = [Tree(tuple(range(90)), (tuple(range(50)), tuple(range(60)))) for _ in range(4)]
    measured = kept_bytes(config, trees, checkpointing=checkpointing)
    tokens = sum(tree.num_tokens for tree in trees)
    tensors = replace(policy_tensors(config), vocabulary=0)
    planned = activation_bytes(tensors, tokens=tokens, checkpointing=checkpointing)
    if checkpointing:
        # The one layer that is computed anew is not kept by the forward pass.
        planned -= activation_bytes(tensors, tokens=tokens, checkpointing=False) // 6
    assert 0.75 <= planned / measured <= 1.5, planned / measured


def kept_bytes(config: ModelConfig, trees: list[Tree], *, checkpointing: bool) -> int:
    """Bytes of all that autograd keeps of a forward pass, the weights left out."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig.from_pretrained(config.name_or_path), dtype=DTYPES[config.dtype]
    )
    policy: torch.nn.Module = model if config.lora is None else attach_adapter(model, config.lora, seed=0)
    if checkpointing:
        checkpoint_activations(model)
    policy.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            kept[place.data_ptr()] = place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ResponseModel(policy, longest=200)(tree_batch(trees, share_prompts=True))
    return sum(place.nbytes() for place in kept.values())
