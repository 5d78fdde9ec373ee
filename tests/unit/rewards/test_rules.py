"""Rewards of words, sentences and length, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modpo.config.rewards import FunctionReward
from modpo.core.batch import PairRewards
from modpo.data.pair_table import open_margin_rewards, write_margin_rewards
from modpo.rewards.base import Completion
from modpo.rewards.function import FunctionScorer
from modpo.rewards.rules import (
    brevity,
    near_target_length,
    prompt_recall,
    reading_ease,
    sentences,
    sentiment,
    syllables,
)
from tests.acceptance.plugin import Accept


def text(words: int) -> str:
    return "word " * words


class TestSentiment:
    def test_sign_and_order(self) -> None:
        happy, flat, sad = sentiment([""] * 3, ["What a wonderful day!", "It is a table.", "This is horrible."])
        assert -1 <= sad < 0 == flat < happy <= 1

    def test_length_does_not_buy_it(self) -> None:
        """The mean over sentences: ten times the same sentence is as cheerful as once."""
        once, often = sentiment(["", ""], ["I love it.", "I love it. " * 10])
        assert once == pytest.approx(often)

    def test_two_sentences_meet_in_the_middle(self) -> None:
        good, bad, both = sentiment([""] * 3, ["I love it.", "I hate it.", "I love it. I hate it."])
        assert both == pytest.approx((good + bad) / 2)

    @pytest.mark.parametrize("nothing", ["", "   ", "...", "?! 123"])
    def test_nothing_to_judge(self, nothing: str) -> None:
        assert sentiment([""], [nothing]) == [0.0]


class TestReadingEase:
    def test_by_the_formula(self) -> None:
        """Three words of one syllable in one sentence: 206.835 - 1.015 * 3 - 84.6."""
        assert reading_ease([""], ["The cat sat."]) == [pytest.approx(206.835 - 1.015 * 3 - 84.6)]

    def test_two_sentences_and_a_longer_word(self) -> None:
        """Five words in two sentences, of which "yellow" has two syllables: 2.5 words a sentence, 6 / 5 syllables."""
        assert syllables("yellow") == 2
        assert reading_ease([""], ["The cat is yellow. Yes!"]) == [
            pytest.approx(min(121.22, 206.835 - 1.015 * 2.5 - 84.6 * 6 / 5))
        ]

    def test_nothing_to_read_is_as_hard_as_can_be(self) -> None:
        assert reading_ease(["", ""], ["", "!!!"]) == [-100.0, -100.0]

    def test_no_text_leaves_the_range(self) -> None:
        hard = "internationalization " * 400
        assert reading_ease(["", ""], [hard, "I go."]) == [-100.0, pytest.approx(121.22, abs=2.0)]


class TestLength:
    def test_half_and_double_are_as_bad(self) -> None:
        assert near_target_length([""] * 4, [text(40), text(20), text(80), text(160)]) == [0, -1, -1, -2]

    def test_saying_nothing_is_worse_than_going_on_for_ever(self) -> None:
        short, empty, shortest_allowed, endless = near_target_length([""] * 4, [text(9), "", text(10), text(2000)])
        assert short == empty == -6 < endless < shortest_allowed == -2

    def test_lengths_are_whole_numbers_all_the_way_to_the_margin(self, tmp_path: Path, accept: Accept) -> None:
        """Through the scorer, the table that trials map and the gap; in bfloat16 they would come in twos above 256."""
        lengths = np.array([*range(1200), 4095, 65_537, 1_000_001])
        completions = [Completion("", text(length), (1,), (2,)) for length in lengths.tolist()]
        settings = FunctionReward(type="function", function="modpo.rewards.rules:brevity")
        rewards = FunctionScorer("brief", brevity, settings, 1.0).score(completions, reference_logps=np.zeros(0))
        write_margin_rewards(tmp_path, "brief", np.stack([rewards, rewards[::-1]], -1))
        mapped = torch.from_numpy(open_margin_rewards(tmp_path, "brief", num_pairs=len(lengths)).copy())
        gap = PairRewards(mapped[:, :1], mapped[:, 1:]).gap[:, 0].numpy()
        accept("C7", "lengths that are not exact", np.count_nonzero(rewards != -lengths), at_most=0)
        differing = np.count_nonzero(gap != lengths[::-1] - lengths)
        accept("C7", "differences of lengths that are not exact", differing, at_most=0)

    def test_raw_brevity_wants_silence(self) -> None:
        assert brevity(["", ""], ["", text(7)]) == [0, -7]


class TestPromptRecall:
    FACTS = "Ann | birthPlace | Bonn; Ann | born | 1995"

    def test_share_of_distinct_words_and_numbers(self) -> None:
        """Six to say: ann, birth, place, bonn, born, 1995; of which ann, bonn and born are said, once or often."""
        said, often = prompt_recall([self.FACTS] * 2, ["Ann was born in Bonn.", "ann ann BONN born"])
        assert said == often == 3 / 6

    def test_all_and_nothing(self) -> None:
        assert prompt_recall([self.FACTS] * 3, [self.FACTS, "", "19 95, Annie"]) == [1, 0, 0]

    def test_messages_are_one_text_and_of_no_words_all_is_said(self) -> None:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
        assert prompt_recall([messages, "?"], ["who, be", "anything"]) == [2 / 3, 1]


@pytest.mark.parametrize(
    ("whole", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "Go." Then he went.', ['He said "Go.', "Then he went."]),
        ("no end", ["no end"]),
        ("... !", []),
    ],
)
def test_sentences(whole: str, parts: list[str]) -> None:
    assert [part.strip() for part in sentences(whole)] == parts
