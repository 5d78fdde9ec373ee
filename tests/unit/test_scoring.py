"""One way to score a response: packed where the family allows it, padded where not, and the same numbers either way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BloomConfig, MistralConfig, PreTrainedConfig, PreTrainedModel, XLNetConfig

from modpo.config.tree import LoraConfig, ModelConfig
from modpo.core.logps import response_logps, sampled_kl
from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.errors import InputError
from modpo.models import (
    TrainedModel,
    attach_adapter,
    checkpoint_activations,
    load_model,
    make_sequences,
    sequence_logits,
    sequence_logps,
)
from modpo.scoring import PROBE_TOLERANCE, ResponseModel, completion_kl, completion_logps, pair_logps, unpacked
from modpo.training.step import sft_micro_batch
from tests.acceptance.plugin import Accept
from tests.counting import counted_responses
from tests.unit.completions import PROMPTS, RESPONSES, SMALL_LLAMA, logps_by_token, longer_completions, tiny

LONGEST = 64


@pytest.fixture(scope="module")
def frozen(demo_world: Path) -> PreTrainedModel:
    """The demo's untrained model, which tests only read."""
    return load_model(ModelConfig(name_or_path=str(demo_world / "model"), dtype="float32"))


BIDIRECTIONAL = XLNetConfig(vocab_size=32, d_model=16, d_inner=32, n_layer=2, n_head=2)
BLOOM = BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2)
WINDOWED = MistralConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, sliding_window=16,
)  # fmt: skip


def row() -> TreeBatch:
    return tree_batch([Tree((5, 6, 7), ((14, 15, 2), (16, 2))), Tree((8, 9), ((17, 18, 19, 20, 2),))])


@torch.no_grad()
def padded(model: torch.nn.Module) -> list[float]:
    """The four completions by another route: whole sequences, full logits."""
    logps: list[float] = sequence_logps(model, make_sequences(PROMPTS, RESPONSES, pad_token_id=0)).tolist()
    return logps


class TestCompletions:
    @pytest.mark.parametrize("config", [SMALL_LLAMA, BLOOM], ids=["packed", "padded family"])
    def test_equal_to_one_forward_per_token(self, config: PreTrainedConfig, accept: Accept) -> None:
        policy = tiny(config)
        scored = completion_logps(ResponseModel(policy, longest=LONGEST), PROMPTS, RESPONSES, batch_size=100)
        assert scored.dtype == np.float64
        error = np.abs(scored - logps_by_token(policy).numpy()).max()
        accept("C1", "largest error in nats, as every model is scored", error, at_most=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_rows_and_order_do_not_matter(self, batch_size: int, accept: Accept) -> None:
        """Packed rows of any size, and the same backwards, against padded sequences."""
        policy = tiny(SMALL_LLAMA)
        model = ResponseModel(policy, longest=LONGEST)
        assert model.is_packed
        scored = completion_logps(model, PROMPTS, RESPONSES, batch_size=batch_size)
        backwards = completion_logps(model, PROMPTS[::-1], RESPONSES[::-1], batch_size=batch_size)[::-1]
        change = max(np.abs(found - padded(policy)).max() for found in (scored, backwards))
        accept("C2", "largest change by packing and company, in nats", change, at_most=1e-4)

    @pytest.mark.parametrize(
        ("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, PROBE_TOLERANCE[torch.bfloat16])]
    )
    def test_neither_do_they_for_longer_texts(self, dtype: torch.dtype, bound: float, accept: Accept) -> None:
        """In bfloat16 within what the probe of a family lets pass."""
        policy, (prompts, responses) = tiny(SMALL_LLAMA).to(dtype), longer_completions()
        scored = completion_logps(ResponseModel(policy, longest=128), prompts, responses, batch_size=5)
        with torch.no_grad():
            plain = sequence_logps(policy, make_sequences(prompts, responses, pad_token_id=0)).numpy()
        name = str(dtype).removeprefix("torch.")
        accept("C2", f"largest change of longer texts, {name}, in nats", np.abs(scored - plain).max(), at_most=bound)

    def test_nothing_to_score(self, frozen: PreTrainedModel) -> None:
        assert completion_logps(ResponseModel(frozen, longest=LONGEST), [], [], batch_size=4).tolist() == []

    def test_a_prompt_stands_once_for_all_its_responses(self, frozen: PreTrainedModel) -> None:
        """Three tokens of prompt, 3 + 5 of its two responses, then the two others: 11 + 4 + 5, and nothing twice."""
        model, seen = ResponseModel(frozen, longest=LONGEST), []
        hook = frozen.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
        completion_logps(model, PROMPTS, RESPONSES, batch_size=100)
        hook.remove()
        assert seen == [11 + 4 + 5]

    def test_equal_completions_are_scored_once(self, frozen: PreTrainedModel) -> None:
        model, seen = ResponseModel(frozen, longest=LONGEST), []
        hook = frozen.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
        once = completion_logps(model, PROMPTS, RESPONSES, batch_size=100)
        thrice = completion_logps(model, PROMPTS * 3, RESPONSES * 3, batch_size=100)
        hook.remove()
        assert seen == [11 + 4 + 5] * 2
        assert thrice.tolist() == once.tolist() * 3

    def test_one_prompt_for_everything_does_not_make_one_row(self, frozen: PreTrainedModel) -> None:
        """40 responses of 1 to 5 tokens: what 4 sequences have is the most that a row holds."""
        responses = [[5 + number % 20] * (1 + number % 5) for number in range(40)]
        model, seen = ResponseModel(frozen, longest=LONGEST), []
        hook = frozen.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
        scored = completion_logps(model, [[5, 6, 7]] * 40, responses, batch_size=4)
        hook.remove()
        assert max(seen) <= 4 * (3 + 3)
        alone = [completion_logps(model, [[5, 6, 7]], [response], batch_size=1)[0] for response in responses]
        assert scored.tolist() == pytest.approx(alone, abs=1e-4)


class TestFamilies:
    def test_the_demos_model_is_packed(self, frozen: PreTrainedModel) -> None:
        assert ResponseModel(frozen, longest=LONGEST).is_packed

    @pytest.mark.parametrize(
        ("config", "reason"),
        [(BLOOM, "bloom models do not"), (WINDOWED, "mistral models look back 16 tokens only")],
        ids=["bloom", "window"],
    )
    def test_others_are_padded_with_one_line_and_the_same_numbers(
        self, config: PreTrainedConfig, reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = tiny(config)
        with caplog.at_level(logging.WARNING, logger="modpo.scoring"):
            models = [ResponseModel(policy, longest=LONGEST) for _ in range(2)]
        assert not any(model.is_packed for model in models)
        assert [record.getMessage().startswith(reason) for record in caplog.records] in ([True], [])
        scored = completion_logps(models[0], PROMPTS, RESPONSES, batch_size=2)
        assert scored.tolist() == pytest.approx(padded(policy), abs=1e-4)

    def test_a_family_that_sees_later_tokens_is_refused_by_name(self) -> None:
        with pytest.raises(InputError) as caught:
            ResponseModel(tiny(BIDIRECTIONAL), longest=LONGEST)
        (problem,) = caught.value.problems
        assert (problem.code, problem.got) == ("MS-162", "xlnet models let tokens see later ones.")

    def test_a_model_whose_config_does_not_tell_is_tried_before_it_scores(self) -> None:
        policy = tiny(BIDIRECTIONAL)
        policy.config.attn_type = "uni"
        with pytest.raises(InputError) as caught:
            ResponseModel(policy, longest=LONGEST)
        (problem,) = caught.value.problems
        assert problem.code == "MS-162"
        assert problem.got.startswith("xlnet models give a token another probability beside other tokens (")

    def test_what_is_padded_is_sorted_by_length_first(self) -> None:
        """Lengths 2, 6, 2, 6: two batches of equal sequences, and not one token of padding."""
        policy, seen = tiny(BLOOM), []
        model = ResponseModel(policy, longest=LONGEST)
        hook = policy.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        completion_logps(model, [[5], [6], [7], [8]], [[9], [9] * 5, [9], [9] * 5], batch_size=2)
        hook.remove()
        assert [tuple(shape) for shape in seen] == [(2, 2), (2, 6)]

    def test_a_window_that_is_long_enough_is_no_reason(self) -> None:
        policy = tiny(WINDOWED)
        model = ResponseModel(policy, longest=15)
        assert model.is_packed
        assert completion_logps(model, PROMPTS, RESPONSES, batch_size=9).tolist() == pytest.approx(
            padded(policy), abs=1e-4
        )


class TestDivergence:
    """Policies far from their reference, against the plain way: padded sequences with all logits of both models."""

    def trained(self, kind: str, demo_world: Path) -> TrainedModel:
        if kind == "padded family":
            policy, reference = tiny(BLOOM), tiny(BLOOM)
            for parameter in reference.parameters():
                parameter.data *= 0.5
            return TrainedModel(policy, lambda: nullcontext(reference))
        config = ModelConfig(name_or_path=str(demo_world / "model"), dtype="float32")
        if kind == "full":
            policy, reference = load_model(config), load_model(config)
            for parameter in policy.parameters():
                parameter.data *= 2
            return TrainedModel(policy, lambda: nullcontext(reference))
        adapted = attach_adapter(load_model(config), LoraConfig(r=2), seed=0).eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

        @contextmanager
        def without_adapter() -> Iterator[PreTrainedModel]:
            with adapted.disable_adapter():
                yield adapted.get_base_model()

        return TrainedModel(adapted.get_base_model(), without_adapter)

    @torch.no_grad()
    def plain(self, trained: TrainedModel) -> list[list[float]]:
        sequences = make_sequences(PROMPTS, RESPONSES, pad_token_id=0)
        policy_logits = sequence_logits(trained.policy, sequences)
        with trained.reference() as reference:
            reference_logits = sequence_logits(reference, sequences)
        k1, exact = sampled_kl(policy_logits, reference_logits, sequences.labels)
        return [k1.tolist(), exact.tolist(), response_logps(reference_logits, sequences.labels).tolist()]

    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    @pytest.mark.parametrize("kind", ["adapter", "full", "padded family"])
    def test_is_that_of_padded_sequences(self, demo_world: Path, kind: str, batch_size: int) -> None:
        trained = self.trained(kind, demo_world)
        found = completion_kl(trained, PROMPTS * 2, RESPONSES * 2, longest=LONGEST, batch_size=batch_size)
        k1, exact, reference_logps = self.plain(trained)
        assert found.k1.tolist() == pytest.approx(k1 * 2, abs=1e-4)
        assert found.exact.tolist() == pytest.approx(exact * 2, abs=1e-4)
        assert found.reference_logps.tolist() == pytest.approx(reference_logps * 2, abs=1e-4)
        assert min(exact) > 1e-3

    def test_an_untrained_adapter_is_at_no_distance(self, demo_world: Path) -> None:
        base = load_model(ModelConfig(name_or_path=str(demo_world / "model"), dtype="float32"))
        adapted = attach_adapter(base, LoraConfig(r=2), seed=0).eval().get_base_model()
        trained = TrainedModel(adapted, lambda: nullcontext(adapted))
        found = completion_kl(trained, PROMPTS, RESPONSES, longest=LONGEST, batch_size=2)
        assert (found.k1.tolist(), found.exact.tolist()) == ([0.0] * 4, [0.0] * 4)

    def test_the_start_model_runs_once_and_is_at_no_distance_from_itself(self, frozen: PreTrainedModel) -> None:
        start = TrainedModel(frozen, lambda: nullcontext(frozen), is_start=True)
        plain, seen = TrainedModel(frozen, lambda: nullcontext(frozen)), []
        with counted_responses(seen):
            found = completion_kl(start, PROMPTS, RESPONSES, longest=LONGEST, batch_size=100)
        twice = completion_kl(plain, PROMPTS, RESPONSES, longest=LONGEST, batch_size=100)
        assert len(seen) == 1
        assert (found.k1.tolist(), found.exact.tolist()) == (twice.k1.tolist(), twice.exact.tolist())
        assert found.reference_logps.tolist() == pytest.approx(twice.reference_logps.tolist(), abs=1e-5)

    def test_nothing_to_measure(self, frozen: PreTrainedModel) -> None:
        found = completion_kl(TrainedModel(frozen, lambda: nullcontext(frozen)), [], [], longest=LONGEST, batch_size=4)
        assert [len(found.k1), len(found.exact), len(found.reference_logps)] == [0, 0, 0]


def test_a_row_taken_apart_gives_its_sequences_in_the_order_of_their_numbers() -> None:
    batch = tree_batch([Tree((5,), ((6, 2),)), Tree((7, 8), ((9, 2),)), Tree((5,), ((3, 4, 2),))], share_prompts=True)
    apart = unpacked(batch)
    assert apart.input_ids.tolist() == [[5, 6, 2, 0], [7, 8, 9, 2], [5, 3, 4, 2]]
    assert apart.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert apart.labels[0].tolist() == [-100, 6, 2, -100]


def test_pairs_are_chosen_and_rejected_in_turn(frozen: PreTrainedModel) -> None:
    model = ResponseModel(frozen, longest=LONGEST)
    trees = [Tree((5, 6), ((7, 2), (8, 9, 2))), Tree((10,), ((11, 2), (12, 2)))]
    with torch.no_grad():
        pairs, logps = pair_logps(model, tree_batch(trees)), model(tree_batch(trees))
    assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == (logps[[0, 2]].tolist(), logps[[1, 3]].tolist())


class TestGradients:
    """A random adapter on the demo's model in float64: packed against padded, and with layers run again."""

    def policy(self, demo_world: Path, *, checkpointed: bool = False) -> torch.nn.Module:
        base = load_model(ModelConfig(name_or_path=str(demo_world / "model"), dtype="float32")).double()
        policy = attach_adapter(base, LoraConfig(r=2), seed=0).double().train()
        generator = torch.Generator().manual_seed(1)
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if checkpointed:
            checkpoint_activations(base)
        return policy

    def gradients(self, policy: torch.nn.Module, logps: torch.Tensor) -> dict[str, torch.Tensor]:
        (logps * torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)).sum().backward()
        return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    @pytest.mark.parametrize("checkpointed", [False, True])
    def test_are_those_of_padded_sequences(self, demo_world: Path, checkpointed: bool) -> None:
        plain, policy = self.policy(demo_world), self.policy(demo_world, checkpointed=checkpointed)
        expected_logps = sequence_logps(plain, unpacked(row()))
        logps = ResponseModel(policy, longest=LONGEST)(row())
        assert logps.tolist() == pytest.approx(expected_logps.tolist(), abs=1e-6)
        expected, found = self.gradients(plain, expected_logps), self.gradients(policy, logps)
        assert found.keys() == expected.keys() and len(found) > 4
        for name, gradient in found.items():
            assert torch.allclose(gradient, expected[name], rtol=1e-5, atol=1e-6), name

    def test_the_model_still_runs_padded_batches_after_a_row(self, demo_world: Path) -> None:
        policy = self.policy(demo_world)
        before = padded(policy)
        ResponseModel(policy, longest=LONGEST)(row())
        assert padded(policy) == before


def test_fine_tuning_weighs_every_response_token_alike(frozen: PreTrainedModel) -> None:
    """Over the batch, not a mean of means: minus the summed log-probabilities over 3 + 2 + 5 tokens."""
    model = ResponseModel(frozen, longest=LONGEST)
    with torch.no_grad():
        loss, logps = sft_micro_batch(model, row()).loss, model(row())
    assert loss.item() == pytest.approx(-logps.sum().item() / 10, rel=1e-12)
