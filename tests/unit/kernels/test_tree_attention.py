"""The attention of packed trees: against a mask written out, who sees whom, and the model before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import softmax
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import CheckpointError
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from modpo.core.trees import TreeBatch, TreeLayout, TreeSpan, tree_batch
from modpo.kernels.tree_attention import (
    LAYOUT_KEYWORD,
    TREE_ATTENTION,
    TreeAttentionError,
    attend_trees,
    tree_attention,
    tree_logits,
)
from tests.unit.kernels.families import (
    VOCABULARY,
    assert_routes_agree,
    gradients,
    one_by_one_logps,
    packed_logps,
    random_trees,
    tiny_config,
    tiny_model,
)

pytestmark = pytest.mark.usefixtures("either_way")

# Three trees, `pp aa bbb`, `q a` and `r a bb c`, and which of the 14 tokens each of them sees.
LAYOUT = TreeLayout((TreeSpan(0, 2, (2, 3)), TreeSpan(7, 1, (1,)), TreeSpan(9, 1, (1, 2, 1))))
SEEN = """
    10000000000000
    11000000000000
    11100000000000
    11110000000000
    11001000000000
    11001100000000
    11001110000000
    00000001000000
    00000001100000
    00000000010000
    00000000011000
    00000000010100
    00000000010110
    00000000010001
"""


@pytest.fixture
def llama() -> PreTrainedModel:
    return tiny_model(tiny_config("llama"))


def heads(number: int, *, seed: int, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, number, LAYOUT.num_tokens, size, dtype=torch.float64, generator=generator)


def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    module = torch.nn.Module()
    output, weights = attend_trees(module, query, key, value, None, **({LAYOUT_KEYWORD: LAYOUT} | options))
    assert weights is None
    return output


class TestOneLayer:
    @pytest.mark.parametrize("num_groups", [1, 2, 4])
    @pytest.mark.parametrize("scaling", [None, 0.7])
    def test_equal_to_a_mask_written_out(self, num_groups: int, scaling: float | None) -> None:
        query, key, value = heads(4, seed=0), heads(num_groups, seed=1), heads(num_groups, seed=2)[..., :6]
        seen = torch.tensor([[int(c) for c in line] for line in SEEN.split()], dtype=torch.bool)
        keys, values = (t.repeat_interleave(4 // num_groups, dim=1) for t in (key, value))
        scores = query @ keys.transpose(-1, -2) * (8**-0.5 if scaling is None else scaling)
        expected = softmax(scores.masked_fill(~seen, -torch.inf), dim=-1) @ values
        found = attend(query, key, value, scaling=scaling)
        assert found.shape == (1, LAYOUT.num_tokens, 4, 6)
        assert found.is_contiguous()
        assert torch.allclose(found.transpose(1, 2), expected, rtol=0, atol=1e-12)

    def test_dropout_is_that_of_the_model(self) -> None:
        """Attention to equal values gives that value; without half the weights it is 0 to 2 of it, 1 on average."""
        query, key, ones = heads(64, seed=0), heads(64, seed=1), torch.ones_like(heads(64, seed=2))
        torch.manual_seed(0)
        assert torch.allclose(attend(query, key, ones, dropout=0.0), attend(query, key, ones), rtol=0, atol=1e-12)
        dropped = attend(query, key, ones, dropout=0.5)[0, :, :, 0]
        assert 0.8 < dropped.mean() < 1.2
        # The first token sees itself only.
        assert set(dropped[0].round(decimals=9).tolist()) == {0.0, 2.0}
        # So it is in every block of a tree: of `bbb`, too, each token comes out different from head to head.
        assert (dropped.std(dim=1) > 0.1).all()

    @pytest.mark.parametrize(
        ("options", "asked"),
        [
            ({"softcap": 50.0}, "softcap"),
            ({"s_aux": torch.zeros(4)}, "s_aux"),
            ({"position_bias": torch.zeros(1)}, "position_bias"),
            ({"sliding_window": 4}, "sliding_window"),
            ({"is_causal": False}, "is_causal=False"),
        ],
    )
    def test_what_trees_do_not_have_is_refused(self, options: dict[str, Any], asked: str) -> None:
        states = [heads(4, seed=seed) for seed in range(3)]
        with pytest.raises(TreeAttentionError) as caught:
            attend(*states, **options)
        assert str(caught.value) == f"packed trees have no {asked}, which Module asks for"

    def test_options_that_ask_for_nothing_are_let_through(self) -> None:
        states = [heads(4, seed=seed) for seed in range(3)]
        attend(*states, softcap=None, sliding_window=LAYOUT.longest, is_causal=None, cu_seq_lens_q=None)

    def test_a_mask_is_refused(self) -> None:
        states = [heads(4, seed=seed) for seed in range(3)]
        with pytest.raises(TreeAttentionError, match="no attention_mask, which Module"):
            attend_trees(torch.nn.Module(), *states, torch.ones(1), **{LAYOUT_KEYWORD: LAYOUT})

    def test_a_row_of_another_length_is_refused(self) -> None:
        states = [heads(4, seed=seed)[:, :, :-1] for seed in range(3)]
        with pytest.raises(TreeAttentionError) as caught:
            attend(*states)
        assert str(caught.value) == (
            "one row of 14 tokens was laid out, got queries (1, 4, 13, 8) for keys (1, 4, 13, 8)"
        )


@torch.no_grad()
def test_a_token_is_seen_by_what_follows_in_its_own_response_only(llama: PreTrainedModel) -> None:
    """Every token of the row in turn is another one, and only the logits of its own tree that follow it move.

    Those that follow a response's token are in that response; those that follow a prompt's are in all its responses.
    """
    batch = tree_batch(random_trees((2, 3, 1), seed=3))
    with tree_attention(llama):
        before = tree_logits(llama, batch)
        for tree, span in enumerate(batch.layout.trees):
            for place in range(span.start, span.start + span.num_tokens):
                changed = batch.input_ids.clone()
                changed[0, place] = (changed[0, place] + 1) % VOCABULARY
                moved = (tree_logits(llama, replace(batch, input_ids=changed)) != before).any(-1)
                assert torch.equal(moved, depends_on(place, batch)), (tree, place)


def depends_on(place: int, batch: TreeBatch) -> Tensor:
    """Which of the R logits follow the token at a place of the row, from the lengths of prompts and responses alone."""
    expected = []
    for span in batch.layout.trees:
        start = span.start + span.prompt_length
        for length in span.response_lengths:
            # The positions of the row, in order, that the response's tokens are predicted from.
            path = [*range(span.start, span.start + span.prompt_length), *range(start, start + length)][:-1]
            seen = path.index(place) if place in path else len(path)
            expected += [number >= seen for number in range(span.prompt_length - 1, len(path))]
            start += length
    return torch.tensor(expected)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(t.numel() for t in tree_iter(made) if isinstance(t, Tensor))])
        return made


def test_nothing_grows_with_the_square_of_the_row(llama: PreTrainedModel) -> None:
    trees = random_trees((2,) * 100)
    with tree_attention(llama), Largest() as largest:
        gradients(llama, packed_logps(llama, trees))
    tokens = tree_batch(trees).layout.num_tokens
    assert tokens > 1000
    assert largest.numbers <= tokens * VOCABULARY


class TestTraining:
    def test_with_checkpointed_activations(self, llama: PreTrainedModel) -> None:
        """Dropout is 0, so training mode, which checkpointing needs, changes nothing else."""
        llama.train()
        llama.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        assert_routes_agree(llama, random_trees((2, 3, 2)))

    @pytest.mark.parametrize("checkpointed", [False, True])
    def test_with_an_adapter(self, llama: PreTrainedModel, checkpointed: bool) -> None:
        policy = get_peft_model(llama, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).double()
        generator = torch.Generator().manual_seed(1)
        trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        for parameter in trained.values():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
        if checkpointed:
            policy.train()
            llama.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        trees = random_trees((2, 3, 2))
        assert_routes_agree(policy, trees)
        assert trained.keys() == gradients(policy, one_by_one_logps(policy, trees)).keys()

    def test_a_backward_pass_outside_the_block_is_no_silent_mistake(self, llama: PreTrainedModel) -> None:
        """The layers would run again with the ordinary attention; torch notices that they store other tensors."""
        llama.train()
        llama.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        with tree_attention(llama):
            logps = packed_logps(llama, random_trees((2, 2)))
        with pytest.raises(CheckpointError):
            logps.sum().backward()


PADDED = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
}


@torch.no_grad()
def padded_logits(model: torch.nn.Module) -> Tensor:
    logits: Tensor = model(**PADDED, use_cache=False).logits
    return logits


@pytest.fixture(params=["sdpa", "eager"])
def twins(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Two models that share one config object, in float32: a padded row is NaN in the eager attention's float64."""
    config = tiny_config("llama", attn_implementation=request.param)
    model, other = tiny_model(config).float(), tiny_model(config).float()
    for part in (*model.modules(), *other.modules()):
        if "config" in vars(part):
            part.config = config
    assert model.config is other.config is config
    return model, other


class TestSwitching:
    def test_back_to_the_bit(self, twins: tuple[PreTrainedModel, PreTrainedModel]) -> None:
        model, _ = twins
        config, implementation, before = model.config, model.config._attn_implementation, padded_logits(model)
        written = model.generate(**PADDED, max_new_tokens=4, do_sample=False)
        with tree_attention(model):
            assert model.config._attn_implementation == TREE_ATTENTION
            tree_logits(model, tree_batch(random_trees((2, 2))))
        assert model.config is config
        assert {part.config is config for part in model.modules() if "config" in vars(part)} == {True}
        assert model.config._attn_implementation == implementation in {"sdpa", "eager"}
        assert torch.equal(padded_logits(model), before) and before.isfinite().all()
        assert torch.equal(model.generate(**PADDED, max_new_tokens=4, do_sample=False), written)

    def test_another_model_of_the_same_config_is_untouched(
        self, twins: tuple[PreTrainedModel, PreTrainedModel]
    ) -> None:
        model, other = twins
        before = padded_logits(other)
        with tree_attention(model):
            assert other.config._attn_implementation in {"sdpa", "eager"}
            assert torch.equal(padded_logits(other), before)

    def test_back_after_an_error(self, llama: PreTrainedModel) -> None:
        before = padded_logits(llama)
        with pytest.raises(KeyError), tree_attention(llama):
            raise KeyError
        assert torch.equal(padded_logits(llama), before)

    def test_ordinary_rows_are_refused_while_trees_are_on(self, llama: PreTrainedModel) -> None:
        with tree_attention(llama):
            with pytest.raises(TreeAttentionError, match="called without modpo_layout: only packed trees can go"):
                padded_logits(llama)
            with pytest.raises(TreeAttentionError, match="called without modpo_layout"):
                llama.generate(**PADDED, max_new_tokens=2, do_sample=False)

    def test_a_layout_of_other_trees_is_refused(self, llama: PreTrainedModel) -> None:
        batch = replace(tree_batch(random_trees((2, 2))), layout=tree_batch(random_trees((2,))).layout)
        with tree_attention(llama), pytest.raises(TreeAttentionError, match="one row of"):
            tree_logits(llama, batch)

    def test_no_mask_is_made(self) -> None:
        """Transformers makes masks for the implementations of this registry, as large as the square of the row."""
        assert TREE_ATTENTION not in ALL_MASK_ATTENTION_FUNCTIONS
