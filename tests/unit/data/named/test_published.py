"""The named sets on parts of the published data, where they lie beside the checkout; no text of theirs is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.named.forming import Formed, form_pairs, read_file


@pytest.fixture(scope="module")
def published(repository: Path) -> Path:
    """The folder with the published files."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no published data in {folder}")
    return folder


@pytest.fixture(scope="module")
def rows(published: Path) -> list[dict[str, Any]]:
    """QA-Feedback."""
    return read_file(published / "qa_feedback_devfb.json")


@pytest.fixture(scope="module")
def preference(rows: list[dict[str, Any]]) -> Formed:
    return form_pairs("qa-feedback", "preference", rows)


class TestQAFeedback:
    def test_every_comparison_is_a_pair_or_a_tie(self, rows: list[dict[str, Any]], preference: Formed) -> None:
        assert len(rows) == 357
        assert preference.counts == (1860, 282, 0, 0)
        assert preference.ties / (6 * len(rows)) == pytest.approx(0.13, abs=0.005)

    def test_the_answer_listed_first_wins_three_of_five(self, rows: list[dict[str, Any]], preference: Formed) -> None:
        """1113 to 747: a label that is read the wrong way round shows as 40 %."""
        order = {row[f"prediction {n}"]: n for row in rows for n in (4, 3, 2, 1)}
        first_wins = sum(order[chosen] < order[rejected] for _, chosen, rejected in preference.pairs)
        assert first_wins / len(preference.pairs) == pytest.approx(0.6, abs=0.01)

    @pytest.mark.parametrize(
        ("dimension", "pairs", "ties"), [("relevance", 297, 53), ("factuality", 137, 213), ("completeness", 273, 77)]
    )
    def test_corrections_are_preferred_to_answers_with_errors(
        self, rows: list[dict[str, Any]], dimension: str, pairs: int, ties: int
    ) -> None:
        """Of 350 questions whose correction is not empty: 297 have such errors, 137 and 273."""
        formed = form_pairs("qa-feedback", dimension, rows)
        assert (len(formed.pairs), formed.ties) == (pairs, ties)
        corrections = {row["feedback"]["corrected-prediction"] for row in rows}
        assert all(chosen in corrections for _, chosen, _ in formed.pairs)

    def test_relevance_goes_with_shorter_and_completeness_with_longer_answers(self, rows: list[dict[str, Any]]) -> None:
        """Where a question has errors of one dimension only: told from the texts, not from the labels."""
        for dimension, others, shorter in (
            ("relevance", ("factuality", "completeness"), True),
            ("completeness", ("relevance", "factuality"), False),
        ):
            mixed = {pair[0] for other in others for pair in form_pairs("qa-feedback", other, rows).pairs}
            alone = [pair for pair in form_pairs("qa-feedback", dimension, rows).pairs if pair[0] not in mixed]
            share = sum((len(chosen) < len(rejected)) == shorter for _, chosen, rejected in alone) / len(alone)
            assert share > 0.9


def test_hh_transcripts_split_into_shared_history_and_two_responses(published: Path) -> None:
    """Three rows with different histories and two with an empty last turn, of 1,202."""
    rows = read_file(published / "hh_harmless_test.json")
    formed = form_pairs("hh-rlhf", "harmless", rows)
    assert (len(rows), formed.counts) == (1202, (1197, 0, 0, 5))
    assert all(prompt[0]["role"] == prompt[-1]["role"] == "user" for prompt, _, _ in formed.pairs)
    assert all("\n\nHuman:" not in text and "\n\nAssistant:" not in text for pair in formed.pairs for text in pair[1:])


def test_topical_chat_has_all_pairs_of_six_responses(published: Path) -> None:
    rows = read_file(published / "topical_chat.json")
    scores = {(row["source"], row["system_output"]): row["scores"]["naturalness"] for row in rows}
    formed = form_pairs("topical-chat", "naturalness", rows)
    assert len(formed.pairs) + formed.ties == 42 * 15
    assert all(scores[prompt, chosen] > scores[prompt, rejected] for prompt, chosen, rejected in formed.pairs)
