"""What the demo's readers want: vivid sentences, and brief ones. Every vivid word costs length, so they conflict.

Both dislike a slip, a text that is no answer of the language, by the same amount. Without such comparisons nothing in
the data would say how likely texts outside the language should be, and DPO-like training lets their mass drift.
"""

from __future__ import annotations

from collections.abc import Sequence

from modpo.data.demo.language import SLOTS, answers

VIVIDNESS = {phrase.words: phrase.vividness for slot in SLOTS for phrase in slot if phrase.words}
REWARD_PER_WORD_SAVED = 0.6
USUAL_WORDS = 6
SLIP_PENALTY = 3.0


def vivid(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Sum of the vividness of the phrases in each response."""
    return [_judge(p, r, _vividness(r)) for p, r in zip(prompts, responses, strict=True)]


def brief(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """0.6 for each word less than six, counting words but not the full stop."""
    return [
        _judge(p, r, REWARD_PER_WORD_SAVED * (USUAL_WORDS - _num_words(r)))
        for p, r in zip(prompts, responses, strict=True)
    ]


def enumerate_answers(prompt: str) -> list[str]:
    """Every answer of a prompt, for the exact optimum."""
    return list(answers(prompt))


def _judge(prompt: str, response: str, value: float) -> float:
    return value if response in answers(prompt) else value - SLIP_PENALTY


def _vividness(response: str) -> float:
    return sum(value for words, value in VIVIDNESS.items() if words in response)


def _num_words(response: str) -> int:
    return sum(word != "." for word in response.split())
