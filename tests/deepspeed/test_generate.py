"""Sampled responses come from the policy's own distribution, whatever its files say about decoding."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modpo.data.demo.language import prompts
from modpo.data.tokenize import Encoder, load_tokenizer
from modpo.evaluation.generate import Sample, sample_responses
from modpo.models import load_model
from tests.deepspeed.trainings import sweep_config

NUM_SAMPLES = 3000
Tokens = tuple[int, ...]


@pytest.fixture(scope="module")
def model(run_dir: Path) -> PreTrainedModel:
    return load_model(sweep_config(run_dir).model, path=str(run_dir / "start"))


@pytest.fixture(scope="module")
def tokenizer(run_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(run_dir / "prepared" / "tokenizer"))


@pytest.fixture(scope="module")
def encoder(run_dir: Path, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    return Encoder(tokenizer, sweep_config(run_dir).data)


@pytest.fixture
def misleading_files(model: PreTrainedModel) -> Iterator[GenerationConfig]:
    """Decoding settings as a model's own files may hold them: nearly greedy, and afraid of repeating itself."""
    plain = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        temperature=0.2,
        top_k=1,
        top_p=0.1,
        min_p=0.5,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        min_new_tokens=5,
        suppress_tokens=[5, 6, 7],
        eos_token_id=plain.eos_token_id,
        pad_token_id=plain.pad_token_id,
    )
    yield model.generation_config
    model.generation_config = plain


def draw(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 24,
    seed: int = 0,
) -> list[Sample]:
    return sample_responses(
        model, tokenizer, prompt_ids, max_new_tokens=max_new_tokens, batch_size=len(prompt_ids), seed=seed
    )


def chi_square_excess(counts: Counter[Tokens], probabilities: dict[Tokens, float]) -> float:
    """How many standard deviations Pearson's statistic lies above its mean under the given distribution.

    Outcomes expected fewer than five times, and all that are not listed, are one class. With k classes the statistic
    has mean k - 1 and variance close to 2 (k - 1); for a right sampler an excess above 5 has a probability below 1e-4
    (the chi-square tail at k = 10, and thinner for more classes), and the seeds are fixed.
    """
    total = counts.total()
    common = {outcome: p for outcome, p in probabilities.items() if p * total >= 5}
    expected = [p * total for p in common.values()]
    observed = [counts[outcome] for outcome in common]
    rest = total - sum(expected)
    if rest >= 5:
        expected.append(rest)
        observed.append(total - sum(observed))
    assert len(expected) >= 10, "too few classes to tell distributions apart"
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = len(expected) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@torch.no_grad()
def first_two_tokens(model: PreTrainedModel, prompt_ids: Sequence[int], end: int) -> dict[Tokens, float]:
    """Exact probability of every possible pair of first tokens (the end token alone), from unpadded forward passes."""
    prompt = torch.tensor([list(prompt_ids)])
    first = model(input_ids=prompt).logits[0, -1].double().softmax(-1)
    continued = torch.cat([prompt.expand(len(first), -1), torch.arange(len(first)).unsqueeze(1)], dim=1)
    second = model(input_ids=continued).logits[:, -1].double().softmax(-1)
    joint = (first.unsqueeze(1) * second).tolist()
    pairs = {(one, two): joint[one][two] for one in range(len(first)) if one != end for two in range(len(first))}
    return {(end,): float(first[end]), **pairs}


def drawn_pairs(samples: Sequence[Sample]) -> Counter[Tokens]:
    return Counter(sample.response_ids for sample in samples)


def test_samples_have_the_probabilities_that_the_model_gives_them(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
):
    ids, other = encoder.prompt_ids(prompts()[0]), encoder.prompt_ids(prompts()[-1])
    counts = drawn_pairs(draw(model, tokenizer, [ids] * NUM_SAMPLES, max_new_tokens=2))
    assert chi_square_excess(counts, first_two_tokens(model, ids, tokenizer.eos_token_id)) < 5
    # The same counts tell the distribution from that of another prompt.
    assert chi_square_excess(counts, first_two_tokens(model, other, tokenizer.eos_token_id)) > 5


@pytest.mark.usefixtures("misleading_files")
def test_decoding_settings_of_the_model_do_not_leak_in(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
):
    ids = encoder.prompt_ids(prompts()[0])
    counts = drawn_pairs(draw(model, tokenizer, [ids] * NUM_SAMPLES, max_new_tokens=2))
    assert chi_square_excess(counts, first_two_tokens(model, ids, tokenizer.eos_token_id)) < 5


def test_left_padding_does_not_change_the_distribution(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
):
    """Each prompt is drawn in a batch with one three times as long, so behind padding of twice its own length."""
    ids = list(encoder.prompt_ids(prompts()[0]))
    mixed = list(itertools.chain.from_iterable([ids, ids * 3] for _ in range(NUM_SAMPLES)))
    samples = draw(model, tokenizer, mixed, max_new_tokens=2)
    for prompt_ids, own in ((ids, samples[::2]), (ids * 3, samples[1::2])):
        probabilities = first_two_tokens(model, prompt_ids, tokenizer.eos_token_id)
        assert chi_square_excess(drawn_pairs(own), probabilities) < 5


def test_a_response_ends_with_its_end_token_or_is_marked_as_cut(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
):
    samples = draw(model, tokenizer, [encoder.prompt_ids(prompt) for prompt in prompts()] * 5, max_new_tokens=5)
    assert {sample.truncated for sample in samples} == {True, False}
    for sample in samples:
        ends = [token == tokenizer.eos_token_id for token in sample.response_ids]
        assert ends[-1] is not sample.truncated
        assert not any(ends[:-1])
        assert len(sample.response_ids) == 5 or not sample.truncated


def test_samples_come_in_the_order_of_their_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
):
    """Shorter prompts are drawn first, so the one at the end gets what it gets alone."""
    short = list(encoder.prompt_ids(prompts()[0]))
    samples = sample_responses(model, tokenizer, [short * 2, short], max_new_tokens=9, batch_size=1, seed=0)
    alone = draw(model, tokenizer, [short], max_new_tokens=9)
    assert samples[1] == alone[0]
    assert samples[0] != alone[0]


def test_prompts_of_one_length_go_together_and_a_batch_ends_with_its_last_response(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
):
    """Two batches of two: no prompt is padded, and as many forward passes as its longest response has tokens."""
    short = list(encoder.prompt_ids(prompts()[0]))
    shapes: list[tuple[int, ...]] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: shapes.append(tuple(ids[0].shape)))
    mixed = [short * 2, short, short * 2, short]
    samples = sample_responses(model, tokenizer, mixed, max_new_tokens=200, batch_size=2, seed=0)
    hook.remove()
    assert not any(sample.truncated for sample in samples)
    lengths = [len(sample.response_ids) for sample in samples]
    first, second = max(lengths[1], lengths[3]), max(lengths[0], lengths[2])
    assert shapes == [
        (2, len(short)),
        *[(2, 1)] * (first - 1),
        (2, 2 * len(short)),
        *[(2, 1)] * (second - 1),
    ]


def test_the_seed_fixes_the_samples_and_no_other_random_stream_moves(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder, misleading_files: GenerationConfig
):
    ids = [encoder.prompt_ids(prompt) for prompt in prompts()]
    before = torch.get_rng_state()
    first = draw(model, tokenizer, ids)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert draw(model, tokenizer, ids) == first
    assert draw(model, tokenizer, ids, seed=1) != first
    assert model.generation_config is misleading_files


def test_a_failure_while_sampling_puts_everything_back(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, misleading_files: GenerationConfig
):
    before = torch.get_rng_state()
    with pytest.raises(IndexError):
        draw(model, tokenizer, [[10**6]])
    assert model.generation_config is misleading_files
    assert torch.equal(torch.get_rng_state(), before)
