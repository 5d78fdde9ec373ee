"""What labels say before any reward is known, on rows counted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modpo.config.tree import SweepConfig
from modpo.data.labels import Agreement, LabelFacts, label_facts, warn_of_labels
from modpo.data.loading import load_data

Row = tuple[str, str, str]


def sweep(tmp_path: Path, first: Sequence[Any], second: Sequence[Any], **changes: Any) -> SweepConfig:
    """Two objectives with these rows: (prompt, chosen, rejected), or whole rows."""
    objectives = []
    for name, rows in (("first", first), ("second", second)):
        path = tmp_path / f"{name}.jsonl"
        values = [
            row if isinstance(row, dict) else dict(zip(("prompt", "chosen", "rejected"), row, strict=True))
            for row in rows
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in values))
        scored = {"scored": {"score": "score"}} if "score" in values[0] else {}
        objectives.append({"name": name, "pairs": {"path": str(path), **scored}})
    raw = {"name": "l", "model": {"name_or_path": "org/m"}, "objectives": objectives}
    return SweepConfig.model_validate(raw | changes)


def facts(config: SweepConfig) -> LabelFacts:
    return label_facts(load_data(config))


def test_lengths_and_which_side_is_longer(tmp_path: Path) -> None:
    """Chosen longer, shorter, as long: (1 + 0.5) / 3. Of the lengths 1 2 2 3 3 4 half are at most 2."""
    rows = [("p", "four", "two"), ("p", "a", "bb"), ("q", "ccc", "ddd")]
    found = facts(sweep(tmp_path, rows, [("p", "x", "yy")]))
    assert found.longer_chosen["first"] == pytest.approx(1.5 / 3)
    assert found.characters["first"] == {50: 3, 95: 4, 100: 4}


def test_objectives_agree_or_disagree_on_the_comparisons_that_both_have(tmp_path: Path) -> None:
    """Three of the first's comparisons are the second's too, once with the sides exchanged: one of three disagrees."""
    first = [("p", "a", "b"), ("p", "a", "c"), ("q", "d", "e"), ("r", "f", "g")]
    second = [("p", "b", "a"), ("p", "a", "c"), ("q", "d", "e"), ("q", "f", "g")]
    assert facts(sweep(tmp_path, first, second)).agreements == (Agreement("first", "second", 3, pytest.approx(1 / 3)),)


def test_the_same_responses_to_another_prompt_are_another_comparison(tmp_path: Path) -> None:
    assert (
        facts(sweep(tmp_path, [("p", "a", "b"), ("o", "a", "b")], [("q", "b", "a"), ("o", "c", "d")])).agreements == ()
    )


def test_labels_of_length_are_pointed_out(tmp_path: Path) -> None:
    config = sweep(tmp_path, [(str(n), "longer", "short") for n in range(5)], [("p", "aa", "b"), ("p", "cc", "ddd")])
    (warning,) = warn_of_labels(config, facts(config))
    assert warning.code == "MS-717"
    assert warning.got == "the chosen response is the longer one in 100%"


class TestScores:
    """Two responses a prompt, scored by both objectives: they disagree on one of two prompts."""

    def config(self, tmp_path: Path, **changes: Any) -> SweepConfig:
        def rows(*scores: int) -> list[dict[str, Any]]:
            texts = [("p", "aa"), ("p", "bb"), ("q", "cc"), ("q", "dd")]
            return [{"prompt": p, "response": r, "score": s} for (p, r), s in zip(texts, scores, strict=True)]

        return sweep(tmp_path, rows(1, 2, 1, 2), rows(1, 2, 2, 1), **changes)

    def test_labels_that_follow_scores_and_disagree(self, tmp_path: Path) -> None:
        config = self.config(tmp_path)
        (warning,) = warn_of_labels(config, facts(config))
        assert warning.code == "MS-718"
        assert warning.where == "objectives (first, second).pairs"
        assert warning.got == "first and second disagree on 50% of the 2 comparisons that both have"

    @pytest.mark.parametrize("loss", ["soft", "regression"])
    def test_losses_that_read_no_labels_have_nothing_to_fear(self, tmp_path: Path, loss: str) -> None:
        config = self.config(tmp_path, training={"loss_type": loss})
        assert list(warn_of_labels(config, facts(config))) == []

    def test_labels_of_people_may_disagree(self, tmp_path: Path) -> None:
        config = sweep(tmp_path, [("p", "aa", "bb"), ("q", "cc", "dd")], [("p", "bb", "aa"), ("q", "dd", "cc")])
        assert list(warn_of_labels(config, facts(config))) == []
