"""A cost is negated once, wherever it comes from: negated numbers with the other direction are the same rewards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import FunctionReward
from modpo.data.pairs import PreferencePair, load_pairs
from modpo.rewards.base import Completion
from modpo.rewards.function import FunctionScorer
from tests.acceptance.plugin import Accept

RESPONSES = ("a", "bb", "ccccc", "dddd")
SCORES = (3.0, -1.5, 0.25, 7.0)


def objective(path: Path, **keys: Any) -> ObjectiveConfig:
    return ObjectiveConfig.model_validate(
        {"name": "cost", "pairs": {"path": str(path), **keys.pop("pairs", {})}, **keys}
    )


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(found: ObjectiveConfig) -> list[PreferencePair]:
    result = load_pairs(found, seed=0, objectives=[found])
    assert result.problems == []
    return list(result.pairs)


def as_labels(pairs: Sequence[PreferencePair]) -> set[tuple[str, str, tuple[tuple[str, float, float], ...]]]:
    return {(pair.chosen, pair.rejected, pair.column_rewards) for pair in pairs}


@pytest.mark.parametrize("form", ["scored", "ranked"])
def test_pairs_and_columns_of_negated_scores(tmp_path: Path, form: str, accept: Accept) -> None:
    def pairs_of(sign: float, direction: str) -> list[PreferencePair]:
        values = [sign * score for score in SCORES]
        rows: list[dict[str, Any]] = [{"prompt": "p", "responses": list(RESPONSES), "scores": values}]
        columns: dict[str, Any] = {"ranked": {"scores": "scores"}}
        score = "scores"
        if form == "scored":
            rows = [{"prompt": "p", "response": r, "score": s} for r, s in zip(RESPONSES, values, strict=True)]
            columns, score = {"scored": {"score": "score"}}, "score"
        path = write(tmp_path / f"{direction}.jsonl", rows)
        reward = {"type": "columns", "score": score}
        return loaded(objective(path, pairs=columns, direction=direction, reward=reward))

    rewards, costs = pairs_of(1.0, "maximize"), pairs_of(-1.0, "minimize")
    assert len(rewards) == 6
    differing = len(as_labels(rewards) ^ as_labels(costs))
    accept("E2", "pairs that differ between a reward and its negative as a cost", differing, at_most=0)
    assert ("dddd", "a", (("cost", 7.0, 3.0),)) in as_labels(costs)


def test_ranks_and_labels_say_themselves_what_is_better(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "responses": ["best", "worst"], "ranks": [1, 2]}]
    path = write(tmp_path / "ranks.jsonl", rows)
    (pair,) = loaded(objective(path, pairs={"ranked": {"ranks": "ranks"}}, direction="minimize"))
    assert (pair.chosen, pair.rejected) == ("best", "worst")


def test_a_function_of_negated_values(accept: Accept) -> None:
    completions = [Completion("p", response, (1,), (2,)) for response in RESPONSES]
    reward = FunctionReward(type="function", function="rewards:any")

    def values(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
        return list(SCORES)

    def costs(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
        return [-score for score in SCORES]

    unused = np.zeros(len(completions))
    one = FunctionScorer("cost", values, reward, 1.0).score(completions, reference_logps=unused)
    other = FunctionScorer("cost", costs, reward, -1.0).score(completions, reference_logps=unused)
    assert one.tolist() == list(SCORES)
    differing = np.count_nonzero(one != other)
    accept("E2", "rewards that differ between a reward and its negative as a cost", differing, at_most=0)
