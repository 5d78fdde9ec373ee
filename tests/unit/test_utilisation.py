"""Counted multiplications against torch's own counter, which watches what is executed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
)

from modpo.config.tree import LoraConfig
from modpo.core.flops import step_flops
from modpo.core.trees import Tree, tree_batch
from modpo.models import attach_adapter
from modpo.scoring import ResponseModel
from modpo.utilisation import UncountableError, known_shape, matmul_peak, matmul_shape, seconds_per_operation

LLAMA = LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip
NEOX = GPTNeoXConfig(vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
GPT2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=64)
BATCH = tree_batch([Tree((1, 2, 3), ((4, 5), (6, 7, 8, 9))), Tree((1,), ((2, 3, 4, 5, 6),))])
# Attention is counted from the trees: the counter takes masked products for full ones.
PRODUCTS = ("mm", "addmm", "addmm_")


def _policy(config: PreTrainedConfig, targets: list[str] | None) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    if targets is None:
        return model
    return attach_adapter(model, LoraConfig(r=2, target_modules=tuple(targets)), seed=0)


def _product_added(total: list[int], left: list[int], right: list[int], **_: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def _executed(run: Callable[[], object]) -> int:
    # The head adds up its weights' gradient in place, which the counter does not know by itself.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _product_added}) as counter:
        run()
    by_operation = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in by_operation.items() if operation.__name__.split(".")[0] in PRODUCTS)


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (LLAMA, ["q_proj", "k_proj", "v_proj", "o_proj"]),
        (NEOX, ["query_key_value"]),
        (NEOX, ["dense"]),
        (GPT2, ["c_attn"]),
    ],
    ids=["llama", "gpt_neox", "gpt_neox, input of the MLP needs none", "gpt2"],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_an_adapters_step_executes_the_counted_products(config: PreTrainedConfig, targets: list[str]) -> None:
    policy = _policy(config, targets)
    shape = matmul_shape(policy)
    rows = ResponseModel(policy, longest=20)
    without_attention = type(shape)(**{**vars(shape), "attention": 0})
    expected = step_flops(without_attention, BATCH.layout, len(BATCH.targets))
    assert _executed(lambda: rows(BATCH).sum().backward()) == expected


def test_full_training_executes_the_counted_products_and_the_heads_logits_once_more() -> None:
    """They are made again for the head's own gradient, in place of keeping them: that is no useful operation."""
    policy = _policy(LLAMA, None)
    shape = matmul_shape(policy)
    rows = ResponseModel(policy, longest=20)
    without_attention = type(shape)(**{**vars(shape), "attention": 0})
    expected = step_flops(without_attention, BATCH.layout, len(BATCH.targets))
    again = 2 * shape.head * len(BATCH.targets)
    # The first layer's query, key and value pass their gradients on to the embeddings.
    assert shape.without_input_grad == 0
    assert _executed(lambda: rows(BATCH).sum().backward()) == expected + again


def test_sizes_of_a_llama_by_hand() -> None:
    shape = matmul_shape(_policy(LLAMA, ["q_proj"]))
    query, key, value, output, mlp = 16 * 16, 16 * 8, 16 * 8, 16 * 16, 3 * 16 * 40
    adapter = 2 * 16 * 2
    assert shape.layers == 3 * (query + key + value + output + mlp + adapter)
    assert shape.trained == 3 * adapter
    # Nothing below the first layer's projections trains: only what reads A's output needs a gradient going down.
    assert shape.without_input_grad == query + key + value + 16 * 2
    assert (shape.head, shape.head_trains, shape.attention) == (50 * 16, False, 3 * 4 * 4)


MIXTRAL = MixtralConfig(
    vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "targets", "unseen"),
    [
        (MIXTRAL, None, "experts"),
        (MIXTRAL, ["q_proj"], "experts"),
        (LLAMA, ["lm_head", "q_proj"], "output embeddings"),
    ],
    ids=["fused experts", "fused experts under an adapter", "adapter on the head"],
)
def test_what_cannot_be_counted_is_unknown_and_never_too_small(
    config: PreTrainedConfig, targets: list[str] | None, unseen: str
) -> None:
    policy = _policy(config, targets)
    with pytest.raises(UncountableError, match=unseen):
        matmul_shape(policy)
    assert known_shape(policy, longest=20) is None


def test_windows_shorter_than_the_sequences_are_not_counted_as_whole_attention() -> None:
    config = MistralConfig(**{**LLAMA.to_diff_dict(), "model_type": "mistral", "sliding_window": 20})
    policy = _policy(config, None)
    assert known_shape(policy, longest=20) == matmul_shape(policy)
    assert known_shape(policy, longest=21) is None


def test_counting_leaves_a_model_as_it_was() -> None:
    """Kernels that run on GPUs only are set aside while the one token passes, on whatever device the model is."""
    policy = _policy(LLAMA, ["q_proj"])
    expected = matmul_shape(policy)
    config = policy.get_base_model().config
    config._attn_implementation = "flash_attention_2"
    assert known_shape(policy, longest=20) == expected
    assert config._attn_implementation == "flash_attention_2"
    assert not any(module._forward_pre_hooks for module in policy.modules())


def test_measuring_the_peak_draws_no_random_numbers() -> None:
    """A point must train alike whether or not its process has measured before."""
    before = torch.get_rng_state()
    assert seconds_per_operation(torch.device("cpu"), torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_peak_is_measured_once() -> None:
    peak = matmul_peak(torch.device("cpu"), torch.float32)
    assert peak > 1e8
    assert matmul_peak(torch.device("cpu"), torch.float32) == peak
