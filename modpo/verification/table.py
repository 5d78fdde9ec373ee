"""The world: what may be eaten at each meal, and what every dish is worth in each objective.

A worth is a whole number, and the reward its logarithm. Bradley-Terry then prefers a dish of worth a to one of worth b
with probability a / (a + b): a wins and b losses out of a + b comparisons are its labels exactly, without a draw.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

MEALS = ("breakfast", "brunch", "lunch", "tea", "dinner", "supper")
DISHES = ("bread", "fish", "fruit", "rice", "soup")
OBJECTIVES = ("taste", "health", "thrift")
WORTHS = (1, 2, 4)
WORTH_OF_NO_DISH = 1
"""Of a response that is no dish, in every objective."""
SEED = 2310

Rewards = list[float]


@functools.cache
def worths(objective: str) -> dict[tuple[str, str], int]:
    """What each dish is worth, by meal and dish: the same numbers in every process."""
    generator = random.Random(f"{SEED} {objective}")
    return {(meal, dish): generator.choice(WORTHS) for meal in MEALS for dish in DISHES}


def no_dishes(meal: str) -> list[str]:
    """What is no answer: another meal.

    Pairs of dishes alone would leave open how likely anything else should be, and training would let it drift.
    """
    return [other for other in MEALS if other != meal]


@functools.cache
def servings() -> dict[tuple[str, str], int]:
    """How often the texts that the start model imitates have each dish at each meal."""
    generator = random.Random(f"{SEED} servings")
    return {(meal, dish): generator.randint(1, 6) for meal in MEALS for dish in DISHES}


def rewards_of(meal: str, objectives: Sequence[str]) -> NDArray[np.float64]:
    """Rewards (Y, K) of all dishes at a meal, higher is better."""
    return np.log([[worths(name)[meal, dish] for name in objectives] for dish in DISHES])


def taste(prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
    return _logarithms("taste", prompts, responses)


def health(prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
    return _logarithms("health", prompts, responses)


def price(prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
    """The opposite of thrift: an objective to minimise."""
    return [-reward for reward in _logarithms("thrift", prompts, responses)]


REWARDS: dict[str, tuple[Callable[[Sequence[str], Sequence[str]], Rewards], str]] = {
    "taste": (taste, "maximize"),
    "health": (health, "maximize"),
    "thrift": (price, "minimize"),
}
"""The function that scores each objective, and whether its numbers are to be raised or lowered."""


def _logarithms(objective: str, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
    table = worths(objective)
    return [math.log(table.get((meal, dish), WORTH_OF_NO_DISH)) for meal, dish in zip(prompts, responses, strict=True)]
