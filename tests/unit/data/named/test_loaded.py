"""Named sets through the loader: the counts of the hand-counted fixtures, and problems with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpo.config.objectives import ObjectiveConfig
from modpo.data.pairs import LoadedPairs, load_pairs
from tests.unit.data.named.test_named import DIMENSIONS, EXPECTED, FILES, mark


def loaded(path: Path, *, drop_unusable: bool = True, **form: Any) -> LoadedPairs:
    objective = ObjectiveConfig.model_validate({"name": "objective", "pairs": {"path": str(path), **form}})
    return load_pairs(objective, seed=0, drop_unusable=drop_unusable)


def named(dataset: str, dimension: str, **limits: Any) -> dict[str, Any]:
    return {"named": {"dataset": dataset, "dimension": dimension, **limits}}


@pytest.mark.parametrize(("dataset", "dimension"), DIMENSIONS)
def test_the_loader_counts_what_was_counted_by_hand(dataset: str, dimension: str) -> None:
    file, expected = EXPECTED[dataset, dimension]
    found = loaded(FILES / file, **named(dataset, dimension))
    counts = found.counts
    assert (counts.pairs, counts.ties, counts.missing, counts.unusable) == expected
    assert found.problems == []
    assert all(mark(pair.chosen, dimension) > mark(pair.rejected, dimension) for pair in found.pairs)


def test_a_row_without_a_preference_is_refused_with_its_place() -> None:
    path = FILES / "hh_rlhf.jsonl"
    found = loaded(path, drop_unusable=False, **named("hh-rlhf", "helpful"))
    assert [(problem.code, problem.where) for problem in found.problems] == [
        ("MS-273", f"{path}:3 (chosen, rejected)"),
        ("MS-208", f"{path}:4 (chosen)"),
        ("MS-273", f"{path}:6 (chosen)"),
    ]
    assert len(found.pairs) == 3


def test_rows_of_another_set_are_refused_even_where_unusable_ones_may_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Hello.", "response": "Hi.", "score": 1}) + "\n", encoding="utf-8")
    (problem,) = loaded(path, **named("hh-rlhf", "helpful")).problems
    assert (problem.code, problem.where) == ("MS-274", f"{path}:1 (chosen)")


@pytest.mark.parametrize(
    ("dataset", "dimension", "code"), [("hh-rlfh", "helpful", "MS-270"), ("hh-rlhf", "harmles", "MS-271")]
)
def test_a_wrong_name_is_the_one_problem(dataset: str, dimension: str, code: str) -> None:
    (problem,) = loaded(FILES / "hh_rlhf.jsonl", **named(dataset, dimension)).problems
    assert problem.code == code
    assert "did you mean" in problem.what


def test_limits_hold_for_each_prompt() -> None:
    found = loaded(FILES / "beavertails.jsonl", **named("beavertails", "categories", max_pairs_per_prompt=1))
    assert (found.counts.pairs, found.counts.ties) == (2, 3)


class TestPublished:
    """Parts of the published sets, where they lie beside the checkout."""

    @pytest.fixture
    def published(self, repository: Path) -> Path:
        folder = repository.parent / "shared" / "data"
        if not folder.is_dir():
            pytest.skip(f"no published data in {folder}")
        return folder

    def test_qa_feedback(self, published: Path) -> None:
        counts = loaded(published / "qa_feedback_devfb.json", **named("qa-feedback", "preference")).counts
        assert (counts.rows, counts.pairs, counts.ties, counts.unusable) == (357, 1860, 282, 0)

    def test_hh(self, published: Path) -> None:
        counts = loaded(published / "hh_harmless_test.json", **named("hh-rlhf", "harmless")).counts
        assert (counts.rows, counts.pairs, counts.unusable) == (1202, 1197, 5)

    def test_pairs_made_of_pku_have_the_safer_response_first_in_a_list(self, published: Path) -> None:
        """No named set: two columns say it all."""
        path = published / "pku_safer_5k_dedup.json"
        found = loaded(path, columns={"chosen": "response.0", "rejected": "response.1"})
        assert (found.counts.rows, found.counts.pairs, found.problems) == (2591, 2591, [])
        raw = json.loads(path.read_text(encoding="utf-8"))
        assert [pair.chosen for pair in found.pairs] == [row["response"][0] for row in raw]
