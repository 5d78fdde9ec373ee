"""The demo's language: sentences about animals, built from a few slots, so that all answers can be enumerated."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

FOREST_ANIMALS = ("fox", "owl", "bear", "hare", "wolf", "deer", "crow", "otter")
ANIMALS = (*FOREST_ANIMALS, "lynx", "swan", "mole", "goat", "frog", "seal", "stork", "badger")
TIMES = ("at night", "at dawn", "at noon", "at dusk", "in winter", "in spring", "in summer", "in autumn")
TEMPLATE = "Tell me about the {animal} {time} ."


@dataclass(frozen=True)
class Phrase:
    """A way to fill a slot: its words, its relative frequency, and how vivid it is."""

    words: str
    frequency: float
    vividness: float


ADJECTIVES = (
    Phrase("", 4, 0.0),
    Phrase("small", 3, 0.3),
    Phrase("quick", 2, 0.7),
    Phrase("brave", 2, 1.0),
    Phrase("golden", 2, 1.4),
)
VERBS = (Phrase("rests", 3, 0.0), Phrase("walks", 3, 0.2), Phrase("leaps", 2, 0.8), Phrase("dances", 2, 1.2))
MANNERS = (Phrase("", 4, 0.0), Phrase("quietly", 3, 0.3), Phrase("boldly", 2, 0.9))
PLACES = (Phrase("", 4, 0.0), Phrase("by the river", 3, 0.5), Phrase("through the shining forest", 2, 1.4))
OTHER_ANIMAL_SHARE = 0.25
SLOTS = (ADJECTIVES, VERBS, MANNERS, PLACES)

# At these times of day or year these words are said twice as often: the answer depends on the prompt.
FAVOURED = dict(zip(TIMES, ("quietly", "rests", "golden", "walks", "small", "leaps", "dances", "brave"), strict=True))


def prompts() -> list[str]:
    return [TEMPLATE.format(animal=animal, time=time) for animal in ANIMALS for time in TIMES]


def answers(prompt: str) -> Collection[str]:
    """Every answer that the language has for a prompt."""
    return _choices(prompt).keys()


def sample_answer(prompt: str, generator: random.Random) -> str:
    """An answer drawn from the language's own distribution."""
    choices = _choices(prompt)
    return generator.choices(list(choices), list(choices.values()))[0]


def sample_slip(prompt: str, generator: random.Random) -> str:
    """A text that is no answer: about another animal, or with words repeated, lost, exchanged, put in, or cut short."""
    while True:
        if generator.random() < OTHER_ANIMAL_SHARE:
            slip = sample_answer(generator.choice(prompts()), generator)
            if slip not in answers(prompt):
                return slip
        words = sample_answer(prompt, generator).split()
        for _ in range(generator.choice((1, 1, 2))):
            _slip_once(words, generator)
        slip = " ".join(words)
        if slip and slip not in answers(prompt):
            return slip


def _slip_once(words: list[str], generator: random.Random) -> None:
    """Changes one place of a sentence in place."""
    if not words:
        return
    place = generator.randrange(len(words))
    kind = generator.choice(("repeat", "lose", "exchange", "insert", "cut"))
    if kind == "repeat":
        words.insert(place, words[place])
    elif kind == "lose":
        del words[place]
    elif kind == "exchange":
        words[place] = generator.choice(_vocabulary())
    elif kind == "insert":
        words[place:place] = generator.choice(_phrases()).split()
    else:
        del words[place:]


@functools.cache
def _phrases() -> tuple[str, ...]:
    return (*_vocabulary(), *(phrase.words for slot in SLOTS for phrase in slot if phrase.words))


@functools.cache
def _vocabulary() -> tuple[str, ...]:
    return tuple(sorted({word for prompt in prompts() for text in (prompt, *answers(prompt)) for word in text.split()}))


@functools.cache
def _choices(prompt: str) -> dict[str, float]:
    """Each answer with its relative frequency."""
    return dict(_weighted_answers(prompt))


def _weighted_answers(prompt: str) -> Iterator[tuple[str, float]]:
    animal = next(animal for animal in ANIMALS if f" {animal} " in prompt)
    favoured = next(word for time, word in FAVOURED.items() if time in prompt)
    for adjective, verb, manner, place in itertools.product(*SLOTS):
        words = ("the", adjective.words, animal, verb.words, manner.words, place.words, ".")
        weight = math.prod(
            phrase.frequency * (2 if phrase.words == favoured else 1) for phrase in (adjective, verb, manner, place)
        )
        yield " ".join(word for word in words if word), weight
