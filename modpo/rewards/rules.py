"""Rewards that need no model: what a text's words, sentences and length say.

Each is a reward function as a sweep file names it: `{type: function, function: "modpo.rewards.rules:sentiment"}`.
`sentiment` and `reading_ease` need `pip install 'modpo[rules]'`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
# Also within `birthPlace` and `born1995`.
WORD_OR_NUMBER = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")

TARGET_WORDS = 40
FEWEST_WORDS, TOO_SHORT = 10, -6.0
EASIEST, HARDEST = 121.22, -100.0


def sentiment(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Mean VADER compound score of the sentences, -1 (negative) to 1 (positive); 0 for a text without words.

    Per sentence, so that length does not buy it: VADER's score of a whole text grows with every positive word.
    """
    return [_mean([_analyser().polarity_scores(text)["compound"] for text in sentences(r)]) for r in responses]


def reading_ease(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Flesch reading ease, 206.835 - 1.015 words per sentence - 84.6 syllables per word, from -100 to 121.22.

    A text without words is as hard as can be: nothing can be read in it.
    """
    return [_flesch(response) for response in responses]


def near_target_length(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """-|log2(words / 40)|, at best 0: half the words and twice the words are as bad, -1.

    Below 10 words it is -6, which no longer text gets before 2,560 words: saying nothing is never the shortest way.
    """
    lengths = [len(response.split()) for response in responses]
    return [TOO_SHORT if words < FEWEST_WORDS else -abs(math.log2(words / TARGET_WORDS)) for words in lengths]


def brevity(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Minus the number of words, without a floor: what it wants most is silence. The report flags such a collapse."""
    return [-float(len(response.split())) for response in responses]


def prompt_recall(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Share of the prompt's distinct words and numbers that the response has too, 0 to 1; of no words it has all.

    For prompts whose content is to be said, such as facts. Whoever repeats the prompt gets everything.
    """
    both = [(_vocabulary(_text(p)), _vocabulary(r)) for p, r in zip(prompts, responses, strict=True)]
    return [len(wanted & said) / len(wanted) if wanted else 1.0 for wanted, said in both]


def sentences(text: str) -> list[str]:
    """Parts of a text that end with a full stop, question or exclamation mark and have a word."""
    return [part for part in SENTENCE_END.split(text.strip()) if WORD.search(part)]


def syllables(word: str) -> int:
    """At least one; by the hyphenation points of American English."""
    return len(_hyphenator().positions(word)) + 1


def _text(prompt: Any) -> str:
    """A prompt, which may be chat messages, as one text."""
    return prompt if isinstance(prompt, str) else " ".join(message["content"] for message in prompt)


def _vocabulary(text: str) -> set[str]:
    return {word.lower() for word in WORD_OR_NUMBER.findall(text)}


def _flesch(text: str) -> float:
    words, parts = WORD.findall(text), sentences(text)
    if not words:
        return HARDEST
    ease = 206.835 - 1.015 * len(words) / len(parts) - 84.6 * sum(map(syllables, words)) / len(words)
    return min(EASIEST, max(HARDEST, ease))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@functools.cache
def _analyser() -> Any:
    # Both packages are extras, and only the functions that need them ask for them.
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415

    return SentimentIntensityAnalyzer()


@functools.cache
def _hyphenator() -> Any:
    import pyphen  # noqa: PLC0415

    return pyphen.Pyphen(lang="en_US")
