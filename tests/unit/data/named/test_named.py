"""Every named set on invented rows of its true schema: hand-counted pairs, and the better text always chosen.

The texts of the fixtures carry marks such as `helpful=1 safer=0`, higher is better: a label that is read the wrong way
round makes pairs whose chosen text has the lower mark.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modpo.config.sources import NamedColumns
from modpo.data.named import NAMED_DATASETS, named_dataset
from modpo.data.named.page import data_page
from modpo.errors import InputError, Problem
from tests.unit.data.named.forming import form_pairs, read_file

FILES = Path(__file__).parent / "files"

# (set, dimension): file, then pairs, ties, missing scores or comparisons, and unusable rows.
EXPECTED: dict[tuple[str, str], tuple[str, tuple[int, int, int, int]]] = {
    ("pku-saferlhf", "helpful"): ("pku_saferlhf.jsonl", (4, 0, 0, 0)),
    ("pku-saferlhf", "safer"): ("pku_saferlhf.jsonl", (4, 0, 0, 0)),
    ("pku-saferlhf", "severity"): ("pku_saferlhf.jsonl", (3, 1, 0, 0)),
    ("pku-saferlhf-10k", "helpful"): ("pku_saferlhf_10k.jsonl", (3, 0, 0, 0)),
    ("pku-saferlhf-10k", "safer"): ("pku_saferlhf_10k.jsonl", (3, 0, 0, 0)),
    # Three responses, two, and one that two annotators saw differently beside another.
    ("beavertails", "safe"): ("beavertails.jsonl", (3, 4, 0, 0)),
    ("beavertails", "categories"): ("beavertails.jsonl", (4, 3, 0, 0)),
    # Two transcripts whose histories differ, an empty last turn, and one that ends with Human.
    ("hh-rlhf", "helpful"): ("hh_rlhf.jsonl", (3, 0, 0, 3)),
    ("hh-rlhf", "harmless"): ("hh_rlhf.jsonl", (3, 0, 0, 3)),
    # Four questions with six comparisons each; the second has no errors, the fourth an empty correction.
    ("qa-feedback", "preference"): ("qa_feedback.json", (17, 7, 0, 0)),
    ("qa-feedback", "relevance"): ("qa_feedback.json", (1, 2, 0, 0)),
    ("qa-feedback", "factuality"): ("qa_feedback.json", (2, 1, 0, 0)),
    ("qa-feedback", "completeness"): ("qa_feedback.json", (1, 2, 0, 0)),
    ("qa-feedback-closed-book", "preference"): ("qa_feedback.json", (17, 7, 0, 0)),
    ("qa-feedback-closed-book", "relevance"): ("qa_feedback.json", (1, 2, 0, 0)),
    ("qa-feedback-closed-book", "factuality"): ("qa_feedback.json", (2, 1, 0, 0)),
    ("qa-feedback-closed-book", "completeness"): ("qa_feedback.json", (1, 2, 0, 0)),
    # Four completions, two, and none.
    ("ultrafeedback", "helpfulness"): ("ultrafeedback.jsonl", (3, 1, 3, 1)),
    ("ultrafeedback", "honesty"): ("ultrafeedback.jsonl", (3, 3, 1, 1)),
    ("ultrafeedback", "instruction_following"): ("ultrafeedback.jsonl", (6, 1, 0, 1)),
    ("ultrafeedback", "truthfulness"): ("ultrafeedback.jsonl", (1, 1, 5, 1)),
    ("ultrafeedback", "overall"): ("ultrafeedback.jsonl", (6, 1, 0, 1)),
    ("ultrafeedback", "fine_grained"): ("ultrafeedback.jsonl", (3, 1, 3, 1)),
    # Three responses and two.
    ("helpsteer", "helpfulness"): ("helpsteer.jsonl", (2, 2, 0, 0)),
    ("helpsteer", "correctness"): ("helpsteer.jsonl", (1, 3, 0, 0)),
    ("helpsteer", "coherence"): ("helpsteer.jsonl", (3, 1, 0, 0)),
    ("helpsteer", "complexity"): ("helpsteer.jsonl", (3, 1, 0, 0)),
    ("helpsteer", "verbosity"): ("helpsteer.jsonl", (3, 1, 0, 0)),
    ("helpsteer2", "helpfulness"): ("helpsteer2.jsonl", (1, 1, 0, 0)),
    ("helpsteer2", "correctness"): ("helpsteer2.jsonl", (1, 1, 0, 0)),
    ("helpsteer2", "coherence"): ("helpsteer2.jsonl", (1, 1, 0, 0)),
    ("helpsteer2", "complexity"): ("helpsteer2.jsonl", (1, 1, 0, 0)),
    ("helpsteer2", "verbosity"): ("helpsteer2.jsonl", (1, 1, 0, 0)),
    ("helpsteer2", "preference"): ("helpsteer2_preference.jsonl", (2, 1, 0, 0)),
    ("helpsteer3", "preference"): ("helpsteer3.jsonl", (3, 1, 0, 0)),
    ("summarize-from-feedback", "preference"): ("summarize_comparisons.jsonl", (3, 0, 0, 0)),
    # Three summaries of one article, the last without an overall rating, and one of a post.
    ("summarize-from-feedback-axis", "overall"): ("summarize_axis.jsonl", (1, 0, 1, 0)),
    ("summarize-from-feedback-axis", "accuracy"): ("summarize_axis.jsonl", (2, 1, 0, 0)),
    ("summarize-from-feedback-axis", "coverage"): ("summarize_axis.jsonl", (0, 3, 0, 0)),
    ("summarize-from-feedback-axis", "coherence"): ("summarize_axis.jsonl", (3, 0, 0, 0)),
    ("shp", "helpful"): ("shp.jsonl", (3, 0, 0, 0)),
    ("topical-chat", "understandability"): ("topical_chat.json", (2, 1, 0, 0)),
    ("topical-chat", "naturalness"): ("topical_chat.json", (3, 0, 0, 0)),
    ("topical-chat", "coherence"): ("topical_chat.json", (0, 3, 0, 0)),
    ("topical-chat", "engagingness"): ("topical_chat.json", (2, 1, 0, 0)),
    ("topical-chat", "groundedness"): ("topical_chat.json", (2, 1, 0, 0)),
    ("topical-chat", "overall"): ("topical_chat.json", (3, 0, 0, 0)),
}
DIMENSIONS = [(dataset.name, dimension) for dataset in NAMED_DATASETS for dimension in dataset.dimensions]


def mark(text: str, dimension: str) -> float:
    (found,) = re.findall(rf"\b{dimension}=(-?[\d.]+)", text)
    return float(found.rstrip("."))


def fixture_rows(dataset: str, dimension: str) -> list[dict[str, Any]]:
    return read_file(FILES / EXPECTED[dataset, dimension][0])


def refusal(dataset: str, dimension: str, row: dict[str, Any]) -> Problem:
    with pytest.raises(InputError) as caught:
        list(named_dataset(dataset).transform(row, dimension))
    (problem,) = caught.value.problems
    return problem


def test_every_dimension_of_every_set_is_counted_here() -> None:
    assert sorted(DIMENSIONS) == sorted(EXPECTED)


@pytest.mark.parametrize(("dataset", "dimension"), DIMENSIONS)
def test_the_pairs_are_those_counted_by_hand(dataset: str, dimension: str) -> None:
    formed = form_pairs(dataset, dimension, fixture_rows(dataset, dimension))
    assert formed.counts == EXPECTED[dataset, dimension][1]


@pytest.mark.parametrize(("dataset", "dimension"), DIMENSIONS)
def test_the_better_text_is_chosen(dataset: str, dimension: str) -> None:
    for _, chosen, rejected in form_pairs(dataset, dimension, fixture_rows(dataset, dimension)).pairs:
        assert mark(chosen, dimension) > mark(rejected, dimension)


@pytest.mark.parametrize(("dataset", "dimension"), DIMENSIONS)
def test_rows_of_something_else_are_refused_or_lack_a_column(dataset: str, dimension: str) -> None:
    """A transform says so itself; without one the loader misses the column."""
    row = {"text": "A row of another set."}
    if named_dataset(dataset).dimensions[dimension].transform.__name__ == "as_they_are":
        assert list(named_dataset(dataset).transform(row, dimension)) == [row]
    else:
        problem = refusal(dataset, dimension, row)
        assert (problem.code, problem.got) == ("MS-274", "columns text")


class TestNames:
    def test_a_typing_error_gets_a_suggestion(self) -> None:
        with pytest.raises(InputError, match="did you mean 'ultrafeedback'") as caught:
            named_dataset("ultrafedback")
        (problem,) = caught.value.problems
        assert (problem.code, problem.where) == ("MS-270", "pairs.named.dataset")
        assert "hh-rlhf" in problem.wanted

    def test_an_unknown_dimension_lists_the_known_ones(self) -> None:
        preset = named_dataset("pku-saferlhf")
        with pytest.raises(InputError, match=r"MS-271.*did you mean 'helpful'") as caught:
            preset.form("helpfull", NamedColumns(dataset="pku-saferlhf", dimension="helpfull"))
        assert caught.value.problems[0].wanted == "one of helpful, safer, severity"
        with pytest.raises(InputError, match="MS-271"):
            preset.transform({}, "harmless")

    def test_names_are_unique_and_every_set_says_where_it_is_from(self) -> None:
        names = [dataset.name for dataset in NAMED_DATASETS]
        assert len(set(names)) == len(names)
        assert all(dataset.licence and dataset.checked and dataset.home for dataset in NAMED_DATASETS)


class TestLimits:
    @pytest.mark.parametrize(
        ("dataset", "dimension", "min_gap", "pairs", "ties"),
        [
            ("ultrafeedback", "overall", 1, 4, 3),
            ("helpsteer", "helpfulness", 2, 0, 4),
            ("helpsteer3", "preference", 1, 2, 2),
            ("helpsteer3", "preference", 2, 1, 3),
            ("helpsteer2", "preference", 0, 2, 1),
            ("helpsteer2", "preference", 1, 1, 2),
        ],
    )
    def test_min_gap_makes_ties(self, dataset: str, dimension: str, min_gap: float, pairs: int, ties: int) -> None:
        formed = form_pairs(dataset, dimension, fixture_rows(dataset, dimension), min_gap=min_gap)
        assert (len(formed.pairs), formed.ties) == (pairs, ties)
        assert all(mark(chosen, dimension) > mark(rejected, dimension) for _, chosen, rejected in formed.pairs)

    def test_the_limits_reach_the_form(self) -> None:
        named = NamedColumns(dataset="beavertails", dimension="safe", max_pairs_per_prompt=2)
        form = named_dataset("beavertails").form("safe", named)
        assert form.model_dump() | {"min_gap": 0.0, "max_pairs_per_prompt": 2} == form.model_dump()

    @pytest.mark.parametrize(
        ("dataset", "dimension", "limit"),
        [
            ("pku-saferlhf", "safer", {"min_gap": 1}),
            # 1 and 2 say which answer is better, not by how much.
            ("qa-feedback", "preference", {"min_gap": 1}),
            ("hh-rlhf", "helpful", {"min_gap": 0}),
            ("helpsteer3", "preference", {"max_pairs_per_prompt": 3}),
            ("hh-rlhf", "helpful", {"max_pairs_per_prompt": 3}),
        ],
    )
    def test_a_limit_without_meaning_is_refused(self, dataset: str, dimension: str, limit: dict[str, int]) -> None:
        named = NamedColumns.model_validate({"dataset": dataset, "dimension": dimension, **limit})
        with pytest.raises(InputError, match="MS-272"):
            named_dataset(dataset).form(dimension, named)


class TestPrompts:
    def test_hh_transcripts_become_alternating_messages(self) -> None:
        formed = form_pairs("hh-rlhf", "helpful", fixture_rows("hh-rlhf", "helpful"))
        prompt, chosen, rejected = formed.pairs[2]
        assert [(message["role"], message["content"]) for message in prompt] == [
            ("user", "Name a tool."),
            ("assistant", "One moment.\n\nFor what?"),
            ("user", "For nails."),
        ]
        assert (chosen, rejected) == ("A hammer. helpful=1 harmless=1", "A spoon. helpful=0 harmless=0")

    def test_helpsteer2_turns_become_messages(self) -> None:
        rows = fixture_rows("helpsteer2", "helpfulness")
        prompts = [next(iter(named_dataset("helpsteer2").transform(row, "helpfulness")))["prompt"] for row in rows]
        assert [(message["role"], message["content"]) for message in prompts[0]] == [
            ("user", "Describe wind."),
            ("assistant", "Which wind?"),
            ("user", "The one from the sea."),
        ]
        assert prompts[2] == [{"role": "user", "content": "Describe fog."}]

    def test_qa_feedback_has_the_passages_or_the_question_alone(self) -> None:
        rows = fixture_rows("qa-feedback", "preference")
        passages = "wikipage: Kettle text: A kettle boils water. It has a lid. wikipage: Lid text: A lid covers a pot."
        expected = {
            "qa-feedback": f"question: What boils water? context: {passages}",
            "qa-feedback-closed-book": "What boils water?",
        }
        for dataset, prompt in expected.items():
            for dimension in ("preference", "relevance", "factuality"):
                assert {pair[0] for pair in form_pairs(dataset, dimension, rows[:1]).pairs} == {prompt}

    def test_qa_feedback_compares_the_first_answer_with_its_correction(self) -> None:
        [row, *_] = fixture_rows("qa-feedback", "relevance")
        [(_, chosen, rejected)] = form_pairs("qa-feedback", "relevance", [row]).pairs
        assert (chosen, rejected) == (row["feedback"]["corrected-prediction"], row["prediction 1"])

    @pytest.mark.parametrize(
        ("kind", "dimension"),
        [
            ("Irrelevant", "relevance"),
            ("Redundant", "relevance"),
            ("Incoherent", "relevance"),
            ("Wrong-Grounding", "factuality"),
            ("Unverifiable", "factuality"),
        ],
    )
    def test_each_kind_of_error_in_qa_feedback_counts_in_one_dimension(self, kind: str, dimension: str) -> None:
        [row, *_] = fixture_rows("qa-feedback", dimension)
        feedback = row["feedback"] | {"errors": [{"error type": kind}] * 2, "missing-info": []}
        scores = {
            name: next(iter(named_dataset("qa-feedback").transform(row | {"feedback": feedback}, name)))["score"]
            for name in ("relevance", "factuality", "completeness")
        }
        assert scores == {"relevance": 0.0, "factuality": 0.0, "completeness": 0.0} | {dimension: -2.0}

    def test_summaries_are_of_posts_or_articles(self) -> None:
        rows = fixture_rows("summarize-from-feedback", "preference")
        formed = form_pairs("summarize-from-feedback", "preference", rows)
        assert [prompt for prompt, _, _ in formed.pairs] == [
            "I dropped a plate and asked for another.",
            "My cat sleeps on the stove.",
            "The town has a new bridge.",
        ]


class TestOtherSchemas:
    @pytest.mark.parametrize(
        ("dataset", "dimension", "change"),
        [
            ("pku-saferlhf", "severity", {"response_1_severity_level": True}),
            ("pku-saferlhf", "severity", {"response_1_severity_level": "2"}),
            ("beavertails", "safe", {"is_safe": 1}),
            ("beavertails", "categories", {"category": {"violence": 1}}),
            ("hh-rlhf", "helpful", {"chosen": ["Hello."]}),
            ("qa-feedback", "preference", {"preference": [1, 2, 0]}),
            ("qa-feedback", "preference", {"passages": ["A passage."]}),
            ("qa-feedback", "relevance", {"feedback": {"errors": ["Irrelevant"]}}),
            ("ultrafeedback", "overall", {"completions": ["A completion."]}),
            ("ultrafeedback", "overall", {"completions": [{"response": "Yes.", "overall_score": "high"}]}),
            ("ultrafeedback", "overall", {"completions": [{"response": "Yes.", "overall_score": True}]}),
            ("ultrafeedback", "overall", {"completions": [{"response": "Yes.", "overall_score": "inf"}]}),
            ("helpsteer2", "helpfulness", {"prompt": None}),
            ("summarize-from-feedback", "preference", {"info": {"post": None}}),
        ],
    )
    def test_values_of_another_type_are_refused(self, dataset: str, dimension: str, change: dict[str, Any]) -> None:
        problem = refusal(dataset, dimension, fixture_rows(dataset, dimension)[0] | change)
        assert problem.code == "MS-274"

    def test_a_rating_that_is_not_a_number_counts_as_missing(self) -> None:
        completions = [{"response": "Yes.", "fine-grained_score": float("nan")}, {"response": "Yes, yes."}]
        row = {"instruction": "Say yes.", "completions": completions}
        assert form_pairs("ultrafeedback", "fine_grained", [row]).counts == (0, 0, 1, 0)


def test_the_page_of_data_sets_is_the_one_of_the_code(repository: Path) -> None:
    published = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    assert published == data_page(NAMED_DATASETS), "out of date: python -m modpo.data.named > docs/data.md"
