"""QA-Feedback of Fine-Grained RLHF: four answers a question with all their comparisons, and errors marked in one.

The errors stand on the first answer only, so two of the model's answers cannot be compared by them. The annotators
also wrote that answer again without the errors they marked: this corrected answer has none by construction, and with
the first answer it makes the pair. A question without an error of a dimension is a tie there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from modpo.config.sources import ComparedColumns, ScoredColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, Transform, read, wrong_schema

ANSWERS = tuple(f"prediction {number}" for number in (1, 2, 3, 4))
# The order of the six labels; `combinations` gives (1,2) (1,3) (1,4) (2,3) (2,4) (3,4).
COMPARISONS = tuple(itertools.combinations(ANSWERS, 2))
IRRELEVANT = ("Irrelevant", "Redundant", "Incoherent")
NOT_FACTUAL = ("Wrong-Grounding", "Unverifiable")

Prompt = Callable[[RawRow], str]


def question_and_passages(row: RawRow) -> str:
    """The input of the authors' models: every passage is a title and its sentences."""
    texts = []
    for passage in read(row, "passages", list):
        if not isinstance(passage, list) or not passage or not all(isinstance(part, str) for part in passage):
            raise wrong_schema(row, "passages")
        title, *sentences = passage
        texts.append(f"wikipage: {title} text: {' '.join(sentences)}")
    return f"question: {read(row, 'question', str).strip()} context: {' '.join(texts)}"


def question_alone(row: RawRow) -> str:
    return str(read(row, "question", str)).strip()


def comparisons(prompt: Prompt) -> Transform:
    """Six rows a question, one for each label of `preference`."""

    def transform(row: RawRow) -> Iterable[RawRow]:
        labels = read(row, "preference", list)
        if len(labels) != len(COMPARISONS):
            raise wrong_schema(row, "preference")
        for (first, second), label in zip(COMPARISONS, labels, strict=True):
            answers = {"first": read(row, first, str), "second": read(row, second, str)}
            yield {"prompt": prompt(row), **answers, "label": label}

    return transform


def corrections(prompt: Prompt, errors: Callable[[RawRow], int]) -> Transform:
    """The first answer with minus its number of errors, and its correction with none."""

    def transform(row: RawRow) -> Iterable[RawRow]:
        feedback = read(row, "feedback", dict)
        yield {"prompt": prompt(row), "response": read(row, ANSWERS[0], str), "score": -float(errors(feedback))}
        corrected = read(feedback, "corrected-prediction", str)
        # Nothing was left of an answer that is wrong as a whole: there is no text to prefer.
        if corrected.strip():
            yield {"prompt": prompt(row), "response": corrected, "score": 0.0}

    return transform


def _marked(*types: str) -> Callable[[RawRow], int]:
    def count(feedback: RawRow) -> int:
        errors = read(feedback, "errors", list)
        if not all(isinstance(error, dict) for error in errors):
            raise wrong_schema(feedback, "errors")
        return sum(read(error, "error type", str) in types for error in errors)

    return count


def _missing(feedback: RawRow) -> int:
    return len(read(feedback, "missing-info", list))


def _dimensions(prompt: Prompt) -> dict[str, Dimension]:
    scored = ScoredColumns(score="score")
    return {
        "preference": Dimension(
            prefers="better as a whole, among four answers",
            form=ComparedColumns(
                label="label", first="first", second="second", first_wins=(1,), second_wins=(2,), ties=(0,)
            ),
            transform=comparisons(prompt),
        ),
        "relevance": Dimension(
            prefers="fewer irrelevant, redundant or incoherent spans (C1); answer 1 and its correction",
            form=scored,
            transform=corrections(prompt, _marked(*IRRELEVANT)),
        ),
        "factuality": Dimension(
            prefers="fewer wrong or unverifiable spans (C2); answer 1 and its correction",
            form=scored,
            transform=corrections(prompt, _marked(*NOT_FACTUAL)),
        ),
        "completeness": Dimension(
            prefers="less missing information (C3); answer 1 and its correction",
            form=scored,
            transform=corrections(prompt, _missing),
        ),
    }


HOME = "https://github.com/allenai/FineGrainedRLHF/tree/main/tasks/qa_feedback/data"
LICENCE = "Apache-2.0; passages CC BY-SA (Wikipedia)"
CHECKED = "the data's README and scripts, and 357 rows of `dev_feedback.json`"
COLUMNS = (
    "`question`, `passages`, `prediction 1` to `prediction 4`, `preference` (six labels: 1 first, 2 second, 0 tie), "
    "`feedback.errors[].error type`, `feedback.missing-info`, `feedback.corrected-prediction`"
)
TRAPS = (
    "It is no hub data set: get `train_feedback.json` and `dev_feedback.json`, and set `path` to one of them.",
    "Labels are 1 and 2, not 0 and 1; 0 is a tie (13 % of the comparisons).",
    "Relevance, factuality and completeness have one pair a question, whose preferred side people wrote. A correction "
    "mends all errors at once, so the three agree with each other; relevance goes with shorter answers, completeness "
    "with longer ones. The authors' completeness reward compares the four answers by a text match instead.",
)

QA_FEEDBACK = NamedDataset(
    name="qa-feedback",
    hub_id=None,
    home=HOME,
    licence=LICENCE,
    dimensions=_dimensions(question_and_passages),
    columns=COLUMNS,
    checked=CHECKED,
    traps=(*TRAPS, "Prompts hold the passages, 2,800 characters in the mean: mind `data.max_length`."),
)

QA_FEEDBACK_CLOSED_BOOK = NamedDataset(
    name="qa-feedback-closed-book",
    hub_id=None,
    home=HOME,
    licence=LICENCE,
    dimensions=_dimensions(question_alone),
    columns=COLUMNS,
    checked=CHECKED,
    traps=(*TRAPS, "The answers and labels rest on passages that these prompts leave out."),
)
