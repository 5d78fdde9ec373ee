"""Writes the world as a sweep finds any other: a model, texts to imitate, and preference pairs of every objective."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import gcd
from pathlib import Path

from modpo.artifacts import is_complete, write_json_lines, writing
from modpo.data.demo.model import write_model
from modpo.verification.table import DISHES, MEALS, OBJECTIVES, SEED, WORTH_OF_NO_DISH, no_dishes, servings, worths

WORLD_VERSION = 1
HIDDEN_SIZE = 32
# An adapter leaves the output embeddings as they are: with small ones it could not make every optimum.
INITIAL_SCALE = HIDDEN_SIZE**-0.5

Row = dict[str, str]


def write_world(folder: Path) -> None:
    """Fills `folder` with `model/`, `texts.jsonl` and one `OBJECTIVE.jsonl` each, unless they are there."""
    if is_complete(folder):
        return
    with writing(folder, {"stage": "verification world", "version": WORLD_VERSION}) as aside:
        write_json_lines(aside / "texts.jsonl", texts())
        for objective in OBJECTIVES:
            write_json_lines(aside / f"{objective}.jsonl", pairs(objective))
        write_model(
            aside / "model",
            texts=[*MEALS, *DISHES],
            seed=SEED,
            hidden_size=HIDDEN_SIZE,
            initial_scale=INITIAL_SCALE,
        )


def texts() -> Iterator[Row]:
    """Every dish at every meal, as often as it is served."""
    for (meal, dish), count in servings().items():
        yield from itertools.repeat({"prompt": meal, "response": dish}, count)


def pairs(objective: str) -> Iterator[Row]:
    """Every comparison of two responses at a meal, won and lost as often as Bradley-Terry has it."""
    table = worths(objective)
    for meal in MEALS:
        for first, second in comparisons(meal):
            wins, losses = (table.get((meal, response), WORTH_OF_NO_DISH) for response in (first, second))
            common = gcd(wins, losses)
            yield from itertools.repeat({"prompt": meal, "chosen": first, "rejected": second}, wins // common)
            yield from itertools.repeat({"prompt": meal, "chosen": second, "rejected": first}, losses // common)


def comparisons(meal: str) -> Iterator[tuple[str, str]]:
    """Every two dishes, and each dish with something that is none."""
    yield from itertools.combinations(DISHES, 2)
    yield from zip(DISHES, no_dishes(meal), strict=True)
