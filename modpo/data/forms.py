"""Rows to comparisons, in each of the forms in which people keep preferences (`config.sources`).

Every form but one gives its comparisons row by row; scored responses are compared when all of a prompt are known, and
are handed on as `ScoredResponse`s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modpo.config.rewards import ColumnsReward
from modpo.config.sources import ComparedColumns, PairColumns, RankedColumns, ScoredColumns
from modpo.data.sources import Row, lookup
from modpo.data.texts import Prompt, implicit_pair, rating, read_prompt, response_of, type_problem
from modpo.errors import InputError, Problem, shown

Form = PairColumns | ScoredColumns | RankedColumns | ComparedColumns
Verdict = Literal["first", "second", "tie", "missing"]
Numbers = tuple[float, ...]
"""One for each objective whose rewards stand in columns, in their order; NaN where the row has none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to a prompt, which of them is preferred, and the numbers that stand beside each."""

    prompt: Prompt
    first: str
    second: str
    verdict: Verdict
    where: str
    first_numbers: Numbers = ()
    second_numbers: Numbers = ()
    implicit: bool = False


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """One response with its score, higher is better; None where it is missing."""

    prompt: Prompt
    response: str
    score: float | None
    where: str
    numbers: Numbers = ()


@dataclass(frozen=True)
class FormReader:
    """Reads rows of one form.

    Attributes:
        sign: what scores are multiplied by, so that higher is better; labels and ranks say themselves what is.
        columns: rewards in columns with the sign of their objective.
    """

    form: Form
    sign: float
    columns: Sequence[tuple[ColumnsReward, float]]

    def read(self, row: Row) -> Iterator[Comparison | ScoredResponse]:
        """What a row holds.

        Raises:
            InputError: all that is wrong with the row.
        """
        form = self.form
        if isinstance(form, ScoredColumns):
            yield self._scored(row, form)
        elif isinstance(form, RankedColumns):
            yield from self._ranked(row, form)
        elif isinstance(form, ComparedColumns):
            yield self._compared(row, form)
        else:
            yield self._pair(row, form)

    def _pair(self, row: Row, form: PairColumns) -> Comparison:
        numbers = self._pair_numbers(row)
        if form.prompt is None or _has_conversations(row, form):
            texts = implicit_pair(row, form.chosen, form.rejected)
            return Comparison(*texts, "first", row.where, *numbers, implicit=True)
        prompt_column = form.prompt
        texts = _prompt_and_two(row, prompt_column, form.chosen, form.rejected)
        if texts[1] == texts[2]:
            raise InputError(_same_text(row, form.chosen, form.rejected))
        return Comparison(*texts, "first", row.where, *numbers)

    def _compared(self, row: Row, form: ComparedColumns) -> Comparison:
        texts = _prompt_and_two(row, form.prompt, form.first, form.second)
        label = lookup(row, form.label)
        verdict = _verdict(label, form)
        if verdict is None:
            raise InputError(_unknown_label(row, form, label))
        if texts[1] == texts[2] and verdict in ("first", "second"):
            raise InputError(_same_text(row, form.first, form.second))
        return Comparison(*texts, verdict, row.where, *self._pair_numbers(row))

    def _scored(self, row: Row, form: ScoredColumns) -> ScoredResponse:
        prompt, response, score = _collect(
            lambda: read_prompt(row, form.prompt),
            lambda: response_of(lookup(row, form.response), row, form.response),
            lambda: rating(lookup(row, form.score), row, form.score),
        )
        numbers = tuple(sign * _number(row, reward.score) for reward, sign in self.columns)
        return ScoredResponse(prompt, response, None if score is None else self.sign * score, row.where, numbers)

    def _ranked(self, row: Row, form: RankedColumns) -> Iterator[Comparison]:
        column = form.ranks or form.scores
        assert column is not None, "a ranked form has ranks or scores"
        prompt = read_prompt(row, form.prompt)
        responses, values = lookup(row, form.responses), lookup(row, column)
        if not isinstance(responses, list) or not isinstance(values, list) or len(responses) != len(values):
            raise InputError(_uneven(row, form.responses, column, responses, values))
        # An empty response among many is left out, like one without a rating.
        blank = [isinstance(response, str) and not response.strip() for response in responses]
        texts = [
            "" if empty else response_of(response, row, form.responses)
            for response, empty in zip(responses, blank, strict=True)
        ]
        # Rank 1 is best.
        sign = -1.0 if form.ranks else self.sign
        ratings = [None if empty else rating(v, row, column) for v, empty in zip(values, blank, strict=True)]
        scores = [None if number is None else sign * number for number in ratings]
        numbers = self._list_numbers(row, len(texts))
        for first, second in itertools.combinations(range(len(texts)), 2):
            yield Comparison(
                prompt,
                texts[first],
                texts[second],
                compare(scores[first], scores[second], min_gap=form.min_gap, same=texts[first] == texts[second]),
                row.where,
                numbers[first],
                numbers[second],
            )

    def _pair_numbers(self, row: Row) -> tuple[Numbers, Numbers]:
        first = tuple(sign * _number(row, reward.chosen) for reward, sign in self.columns)
        second = tuple(sign * _number(row, reward.rejected) for reward, sign in self.columns)
        return first, second

    def _list_numbers(self, row: Row, count: int) -> list[Numbers]:
        columns = []
        for reward, sign in self.columns:
            values = _value(row, reward.score)
            known = isinstance(values, list) and len(values) == count
            columns.append([sign * _as_number(value) for value in values] if known else [float("nan")] * count)
        return [tuple(column[number] for column in columns) for number in range(count)]


def _has_conversations(row: Row, form: PairColumns) -> bool:
    """Whole conversations without a prompt column: TRL's implicit prompt. Of plain text it has to be asked for."""
    default = form.prompt == PairColumns().prompt and form.prompt not in row.values
    return default and all(isinstance(row.values.get(column), list) for column in (form.chosen, form.rejected))


def compare(first: float | None, second: float | None, *, min_gap: float, same: bool = False) -> Verdict:
    """Which of two scores is better by more than a gap; responses of the same text are a tie whatever they scored."""
    if first is None or second is None:
        return "missing"
    if same or abs(first - second) <= min_gap:
        return "tie"
    return "first" if first > second else "second"


def _prompt_and_two(row: Row, prompt_column: str, first: str, second: str) -> tuple[Prompt, str, str]:
    """Prompt and two responses; all that is wrong with the three at once."""
    prompt: Prompt | None = None
    problems: list[Problem] = []
    try:
        prompt = read_prompt(row, prompt_column)
    except InputError as error:
        problems += error.problems
    texts: list[str] = []
    for column in (first, second):
        try:
            texts.append(response_of(lookup(row, column), row, column, prompt=prompt))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    assert prompt is not None, "a row without problems has a prompt"
    return prompt, texts[0], texts[1]


def _collect(*readers: Callable[[], Any]) -> list[Any]:
    """Results of all readers, or all their problems."""
    found: list[Any] = []
    problems: list[Problem] = []
    for read in readers:
        try:
            found.append(read())
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def _verdict(label: Any, form: ComparedColumns) -> Verdict | None:
    """None for a label that is not declared. A truth value is no number: True is not 1."""

    def among(values: Sequence[bool | int | str]) -> bool:
        return any(label == value and isinstance(label, bool) == isinstance(value, bool) for value in values)

    if among(form.first_wins):
        return "first"
    if among(form.second_wins):
        return "second"
    if among(form.ties):
        return "tie"
    return "missing" if label is None else None


def _value(row: Row, column: str | None) -> Any:
    if column is None:
        return None
    try:
        return lookup(row, column)
    except InputError:
        return None


def _number(row: Row, column: str | None) -> float:
    return _as_number(_value(row, column))


def _as_number(value: Any) -> float:
    """NaN for whatever is no finite number: the loader counts those."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float("nan")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return float("nan")
    return number if abs(number) < float("inf") else float("nan")


def _same_text(row: Row, first: str, second: str) -> Problem:
    return Problem(
        code="MS-207",
        what="chosen and rejected are the same text",
        where=f"{row.where} ({first}, {second})",
        wanted="two different responses",
        remedy="remove the row: it carries no preference",
    )


def _unknown_label(row: Row, form: ComparedColumns, label: Any) -> Problem:
    declared: Mapping[str, Sequence[object]] = {
        "first": form.first_wins,
        "second": form.second_wins,
        "tie": form.ties,
    }
    return Problem(
        code="MS-243",
        what="a label is none of those that are declared",
        where=f"{row.where} ({form.label})",
        got=shown(label),
        wanted="; ".join(f"{name}: {', '.join(map(repr, values)) or 'none'}" for name, values in declared.items()),
        remedy="name it in the sweep file under first_wins, second_wins or ties",
    )


def _uneven(row: Row, responses_column: str, column: str, responses: Any, values: Any) -> Problem:
    if not isinstance(responses, list):
        return type_problem(row, responses_column, shown(type(responses).__name__), "a list of responses")
    got = f"{len(values)} values" if isinstance(values, list) else shown(type(values).__name__)
    return Problem(
        code="MS-244",
        what="a ranked row has not one rank or score for each response",
        where=f"{row.where} ({column})",
        got=f"{got} for {len(responses)} responses",
        wanted=f"a list of {len(responses)}",
        remedy="mend or remove the row",
    )
