"""Labels are draws: which responses are compared, how often the better one wins, and that the same seed repeats it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from modpo.config.sources import PromptData
from modpo.config.tree import LabelConfig
from modpo.data.prepared import LabelPrompt, prompt_value
from modpo.label import Candidate, draw_labels, form_candidates

PROMPT = LabelPrompt(prompt="Hi", prompt_ids=(5,), split="train")


def sample(number: int, token: int, *, reward: float = 0.0, truncated: bool = False) -> dict[str, Any]:
    return {
        "prompt_number": number,
        "response": f"text {token}",
        "response_ids": [token, 2],
        "truncated": truncated,
        "short": reward,
    }


def label(**settings: Any) -> LabelConfig:
    return LabelConfig(prompts=PromptData(path="p.jsonl"), **settings)


def test_all_pairs_of_different_responses_to_one_prompt() -> None:
    """Prompt 0: three responses, two of them alike, so 2 of 3 pairs. Prompt 1: one pair. None across prompts."""
    samples = [sample(0, 7), sample(0, 8), sample(0, 7), sample(1, 7, truncated=True), sample(1, 9)]
    candidates, counts = form_candidates(samples, [PROMPT, PROMPT], label(), seed=0)
    compared = [(c.first["response_ids"][0], c.second["response_ids"][0]) for c in candidates]
    assert compared == [(7, 8), (8, 7), (7, 9)]
    assert counts == {"prompts": 2, "responses": 5, "truncated": 1, "identical": 1}


def test_a_limit_draws_pairs_of_each_prompt_and_the_seed_repeats_it() -> None:
    samples = [sample(0, token) for token in range(10)]
    drawn, again, other = (
        [(c.first["response_ids"][0], c.second["response_ids"][0]) for c in found]
        for found, _ in (
            form_candidates(samples, [PROMPT], label(max_pairs_per_prompt=5), seed=seed) for seed in (0, 0, 1)
        )
    )
    assert len(drawn) == 5 and drawn == again != other


@pytest.mark.parametrize(("gap", "unit"), [(0.0, 1.0), (1.0, 1.0), (-2.0, 1.0), (10.0, 5.0)])
def test_the_better_response_wins_as_often_as_bradley_terry_says(gap: float, unit: float) -> None:
    """In the declared unit: a gap of 10 in units of 5 is a gap of 2. 4,000 draws are within 4 standard errors."""
    candidates = [Candidate(PROMPT, sample(0, 7, reward=gap), sample(0, 8)) for _ in range(4000)]
    wins = [row["chosen"] == "text 7" for row in draw_labels(candidates, "short", unit=unit, seed=0)]
    expected = 1 / (1 + math.exp(-gap / unit))
    assert abs(sum(wins) / 4000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_labels_repeat_with_the_seed_and_differ_between_objectives() -> None:
    candidates = [Candidate(PROMPT, sample(0, 7) | {"long": 0.0}, sample(0, 8) | {"long": 0.0}) for _ in range(50)]

    def labels(objective: str, seed: int) -> list[str]:
        return [row["chosen"] for row in draw_labels(candidates, objective, unit=1.0, seed=seed)]

    assert labels("short", 0) == labels("short", 0)
    assert len({tuple(labels(*key)) for key in (("short", 0), ("short", 1), ("long", 0))}) == 3


def test_a_made_pair_has_the_tokens_that_were_sampled() -> None:
    [row] = draw_labels([Candidate(PROMPT, sample(0, 7, reward=99.0), sample(0, 8))], "short", unit=1.0, seed=0)
    assert (row["chosen_ids"], row["rejected_ids"], row["prompt_ids"]) == ([7, 2], [8, 2], [5])
    assert (row["objective"], row["split"], row["prompt"]) == ("short", "train", '"Hi"')


def test_a_conversation_comes_back_as_it_was() -> None:
    """Reward functions get it from the pairs: once its messages had lost their roles there."""
    messages = [{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Yes"}]
    prompt = LabelPrompt(prompt=messages, prompt_ids=(5,), split="train")
    [row] = draw_labels([Candidate(prompt, sample(0, 7), sample(0, 8))], "short", unit=1.0, seed=0)
    assert prompt_value(row["prompt"]) == messages


def test_pair_ids_are_unique_even_for_equal_texts() -> None:
    candidates = [Candidate(PROMPT, sample(0, 7), sample(0, 8)) for _ in range(20)]
    assert len({row["pair_id"] for row in draw_labels(candidates, "short", unit=1.0, seed=0)}) == 20


def test_a_reward_far_from_zero_is_no_overflow() -> None:
    candidates = [Candidate(PROMPT, sample(0, 7, reward=sign * 1e6), sample(0, 8)) for sign in (1, -1)]
    assert [row["chosen"] for row in draw_labels(candidates, "short", unit=1.0, seed=0)] == ["text 7", "text 8"]
