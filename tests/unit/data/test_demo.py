"""The demo world: reproducible to the byte, labels drawn by Bradley-Terry, rewards that conflict, a listed language."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modpo.artifacts import is_valid
from modpo.config.tree import ModelConfig
from modpo.data.demo import language, world
from modpo.data.demo.language import answers, prompts, sample_answer, sample_slip
from modpo.data.demo.rewards import brief, enumerate_answers, vivid
from modpo.data.tokenize import load_tokenizer
from modpo.models import load_model
from tests.conftest import WORLD_CORPUS_SIZE, WORLD_PAIRS_PER_OBJECTIVE, WORLD_SEED

REWARDS = {"vivid": vivid, "brief": brief}


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(world_folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (world_folder / f"{name}.jsonl").read_text().splitlines()]


class TestFiles:
    def test_same_seed_same_bytes(self, demo_world: Path, small_world: Callable[[str, int], Path]) -> None:
        assert hashes(small_world("again", WORLD_SEED)) == hashes(demo_world)

    def test_another_seed_gives_other_data_and_another_model(
        self, demo_world: Path, small_world: Callable[[str, int], Path]
    ) -> None:
        first, second = hashes(demo_world), hashes(small_world("other", WORLD_SEED + 1))
        for name in ("corpus.jsonl", "vivid.jsonl", "brief.jsonl", "model/model.safetensors"):
            assert first[name] != second[name]

    def test_folder_is_an_artefact_of_the_declared_size(self, demo_world: Path) -> None:
        assert is_valid(demo_world)
        assert len(rows(demo_world, "corpus")) == WORLD_CORPUS_SIZE
        assert [len(rows(demo_world, name)) for name in REWARDS] == [WORLD_PAIRS_PER_OBJECTIVE] * 2

    def test_model_knows_every_word_and_can_end(self, demo_world: Path) -> None:
        tokenizer = load_tokenizer(str(demo_world / "model"))
        words = {word for prompt in prompts() for text in (prompt, *answers(prompt)) for word in text.split()}
        assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(sorted(words))
        model = load_model(ModelConfig(name_or_path=str(demo_world / "model"), dtype="float32"))
        assert model.config.eos_token_id == tokenizer.eos_token_id
        assert model.config.vocab_size == len(tokenizer)


class TestLanguage:
    def test_answers_are_the_product_of_the_slots(self) -> None:
        """5 adjectives, 4 verbs, 3 manners and 3 places: 180 distinct answers to each of 16 x 8 prompts."""
        assert len(set(prompts())) == 128
        assert {len(set(answers(prompt))) for prompt in prompts()} == {180}

    def test_answers_are_well_formed(self) -> None:
        """the, perhaps an adjective, the animal asked for, a verb, perhaps manner and place, a full stop."""
        for prompt in prompts():
            animal = next(animal for animal in language.ANIMALS if animal in prompt)
            for answer in answers(prompt):
                words = answer.split(" ")
                assert words[0] == "the" and words[-1] == "." and "" not in words
                assert words.count(animal) == 1 and words.index(animal) in (1, 2)
                assert sum(verb.words in words for verb in language.VERBS) == 1
                assert answer.count(".") == 1

    def test_samples_follow_the_declared_frequencies(self) -> None:
        """At dawn `rests` is said twice as often: 6 of 6 + 3 + 2 + 2 = 13; within 4 standard errors."""
        prompt, count = "Tell me about the fox at dawn .", 4000
        generator = random.Random(0)
        rests = sum(" rests " in sample_answer(prompt, generator) for _ in range(count))
        assert abs(rests / count - 6 / 13) <= 4 * math.sqrt(6 / 13 * 7 / 13 / count)

    def test_samples_are_answers_and_slips_are_not(self) -> None:
        generator = random.Random(1)
        for prompt in prompts():
            assert sample_answer(prompt, generator) in answers(prompt)
            slips = [sample_slip(prompt, generator) for _ in range(20)]
            assert not set(slips) & set(answers(prompt))
            assert all(slip.strip() for slip in slips)


class TestRewards:
    def test_hand_scored_answers(self) -> None:
        """Golden 1.4 + dances 1.2 + boldly .9 + forest 1.4 = 4.9; six words saved from 6 - 9 = -3 times .6."""
        prompt = "Tell me about the fox at dawn ."
        responses = ["the golden fox dances boldly through the shining forest .", "the fox rests ."]
        assert vivid([prompt] * 2, responses) == pytest.approx([4.9, 0.0])
        assert brief([prompt] * 2, responses) == pytest.approx([-1.8, 1.8])

    def test_a_slip_costs_both_rewards_three(self) -> None:
        prompt = "Tell me about the fox at dawn ."
        for slip in ("the fox rests", "the the fox rests .", "the owl rests ."):
            words = sum(word != "." for word in slip.split())
            assert brief([prompt], [slip]) == pytest.approx([0.6 * (6 - words) - 3])
            assert vivid([prompt], [slip]) == pytest.approx([-3.0])

    def test_rewards_conflict(self) -> None:
        for prompt in prompts():
            listed = enumerate_answers(prompt)
            both = [reward([prompt] * len(listed), listed) for reward in REWARDS.values()]
            assert np.corrcoef(both)[0, 1] < -0.3

    def test_neither_reward_decides_the_other(self) -> None:
        """Answers of equal length differ in vividness: a front, not one trade."""
        prompt = prompts()[0]
        listed = enumerate_answers(prompt)
        per_length = Counter(
            zip(brief([prompt] * 180, listed), np.round(vivid([prompt] * 180, listed), 6), strict=True)
        )
        assert len(per_length) > 2 * len({length for length, _ in per_length})


class TestLabels:
    @pytest.fixture(scope="class", params=sorted(REWARDS))
    @classmethod
    def labelled(cls, request: pytest.FixtureRequest) -> tuple[np.ndarray, list[dict[str, str]]]:
        """Reward gaps chosen - rejected of 4,000 sampled pairs, and the pairs."""
        reward = REWARDS[request.param]
        pairs = world.sampled_pairs(reward, 4000, random.Random(5))
        gaps = [reward([p["prompt"]] * 2, [p["chosen"], p["rejected"]]) for p in pairs]
        return np.array([chosen - rejected for chosen, rejected in gaps]), pairs

    def test_share_of_better_chosen_is_what_bradley_terry_says(
        self, labelled: tuple[np.ndarray, list[dict[str, str]]]
    ) -> None:
        """Of a pair with the gap d the better one is chosen with probability sigmoid(|d|); within 4 deviations."""
        gaps, _ = labelled
        decided = gaps[gaps != 0]
        probability = 1 / (1 + np.exp(-np.abs(decided)))
        deviation = math.sqrt((probability * (1 - probability)).sum())
        assert abs((decided > 0).sum() - probability.sum()) <= 4 * deviation
        assert (decided > 0).mean() < 0.95, "labels by argmax would always choose the better one"

    def test_small_and_large_gaps_each_follow_their_own_probability(
        self, labelled: tuple[np.ndarray, list[dict[str, str]]]
    ) -> None:
        gaps, _ = labelled
        for low, high in ((0.05, 1), (1, 2), (2, 10)):
            chosen = gaps[(np.abs(gaps) > low) & (np.abs(gaps) <= high)]
            probability = 1 / (1 + np.exp(-np.abs(chosen)))
            deviation = math.sqrt((probability * (1 - probability)).sum())
            assert len(chosen) > 100
            assert abs((chosen > 0).sum() - probability.sum()) <= 4 * deviation

    def test_pairs_differ_and_one_side_at_least_is_an_answer(
        self, labelled: tuple[np.ndarray, list[dict[str, str]]]
    ) -> None:
        """The share of pairs with a slip is the declared one, within 4 standard errors."""
        _, pairs = labelled
        well_formed = [sum(pair[side] in answers(pair["prompt"]) for side in ("chosen", "rejected")) for pair in pairs]
        assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
        assert set(well_formed) == {1, 2}
        share = well_formed.count(1) / len(pairs)
        assert abs(share - world.SLIP_SHARE) <= 4 * math.sqrt(world.SLIP_SHARE * (1 - world.SLIP_SHARE) / len(pairs))
