"""UltraFeedback: four completions an instruction, rated by GPT-4 on four aspects and as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modpo.config.sources import RankedColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, Transform, rating, read, unusable, wrong_schema

Score = Callable[[RawRow], float | None]


def scored_completions(score: Score) -> Transform:
    """Ratings are texts and sometimes `N/A`: here they become numbers or null."""

    def transform(row: RawRow) -> Iterable[RawRow]:
        completions = read(row, "completions", list)
        if not completions:
            raise unusable("the instruction has no completions", "completions")
        if not all(isinstance(completion, dict) for completion in completions):
            raise wrong_schema(row, "completions")
        scored = [{"response": read(each, "response", str), "score": score(each)} for each in completions]
        yield {"instruction": read(row, "instruction", str), "completions": scored}

    return transform


def _aspect(name: str) -> Score:
    """The rating of one aspect; a completion whose annotation failed lacks it."""

    def score(completion: RawRow) -> float | None:
        annotations = read(completion, "annotations", dict)
        return None if annotations.get(name) is None else rating(read(annotations, name, dict), "Rating")

    return score


def _own(column: str) -> Score:
    return lambda completion: rating(completion, column)


def _dimension(prefers: str, score: Score) -> Dimension:
    form = RankedColumns(prompt="instruction", responses="completions.response", scores="completions.score")
    return Dimension(prefers=prefers, form=form, transform=scored_completions(score))


ULTRAFEEDBACK = NamedDataset(
    name="ultrafeedback",
    hub_id="openbmb/UltraFeedback",
    home="https://github.com/OpenBMB/UltraFeedback",
    licence="MIT",
    dimensions={
        "helpfulness": _dimension("more informative and helpful (1 to 5)", _aspect("helpfulness")),
        "honesty": _dimension("surer where it is right, less sure where it is not (1 to 5)", _aspect("honesty")),
        "instruction_following": _dimension("closer to the instruction (1 to 5)", _aspect("instruction_following")),
        "truthfulness": _dimension("fewer untruths (1 to 5)", _aspect("truthfulness")),
        "overall": _dimension("higher `overall_score` of the critique (1 to 10)", _own("overall_score")),
        "fine_grained": _dimension(
            "higher `fine-grained_score`, the mean of the four aspects",
            _own("fine-grained_score"),
        ),
    },
    columns=(
        "`instruction`, `completions[].response`, `completions[].annotations.<aspect>.Rating` (text, may be `N/A`), "
        "`completions[].overall_score`, `completions[].fine-grained_score`"
    ),
    checked="the project's README and scripts; the types of the two scores by code that reads them",
    traps=(
        "Ratings are texts; a missing one leaves its completion out of the pairs of that aspect only.",
        "Up to six pairs an instruction, many of them equal: `min_gap: 1` keeps the clearer ones.",
        "Many of 2,628 completions with an `overall_score` of 10 deserved 1; the hub has them mended since 2023-12-29, "
        "copies made earlier have not.",
        "A few instructions have no completions: `data.unusable_rows: drop`.",
        "The ratings are those of GPT-4, not of people.",
    ),
)
