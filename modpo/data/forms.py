"""Rows to comparisons, in each of the forms in which people keep preferences (`config.sources`).

Every form but one gives its comparisons row by row; scored responses are compared when all of a prompt are known, and
are handed on as `ScoredResponse`s.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from modpo.config.rewards import ColumnsReward
from modpo.config.sources import ComparedColumns, PairColumns, RankedColumns, ScoredColumns
from modpo.data.rows import Row, kind_of, lookup, told
from modpo.data.texts import (
    Prompt,
    collect,
    implicit_pair,
    number_of,
    rating,
    read_prompt,
    read_texts,
    response_of,
    same_text,
    type_problem,
)
from modpo.errors import InputError, Problem

DEFAULT_PROMPT = PairColumns().prompt

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
        prompt, (chosen, rejected) = read_texts(row, form.prompt, form.chosen, form.rejected)
        if chosen == rejected:
            raise InputError(same_text(row, form.chosen, form.rejected))
        return Comparison(prompt, chosen, rejected, "first", row.where, *numbers)

    def _compared(self, row: Row, form: ComparedColumns) -> Comparison:
        (prompt, (first, second)), verdict = collect(
            lambda: read_texts(row, form.prompt, form.first, form.second), lambda: _verdict(row, form)
        )
        if first == second and verdict in ("first", "second"):
            raise InputError(same_text(row, form.first, form.second))
        return Comparison(prompt, first, second, verdict, row.where, *self._pair_numbers(row))

    def _scored(self, row: Row, form: ScoredColumns) -> ScoredResponse:
        (prompt, (response,)), score = collect(
            lambda: read_texts(row, form.prompt, form.response),
            lambda: rating(lookup(row, form.score), row, form.score),
        )
        numbers = tuple(sign * _number(row, reward.score) for reward, sign in self.columns)
        return ScoredResponse(prompt, response, None if score is None else self.sign * score, row.where, numbers)

    def _ranked(self, row: Row, form: RankedColumns) -> Iterator[Comparison]:
        column = form.ranks or form.scores
        assert column is not None, "a ranked form has ranks or scores"
        prompt, (responses, values) = collect(
            lambda: read_prompt(row, form.prompt), lambda: _even_lists(row, form.responses, column)
        )
        rated = _rated_responses(row, prompt, (form.responses, column), zip(responses, values, strict=True))
        # Rank 1 is best.
        sign = -1.0 if form.ranks else self.sign
        scored = [(text, None if number is None else sign * number) for text, number in rated]
        beside = zip(scored, self._list_numbers(row, len(scored)), strict=True)
        for ((first, ours), first_numbers), ((second, theirs), second_numbers) in itertools.combinations(beside, 2):
            verdict = compare(ours, theirs, min_gap=form.min_gap, same=first == second)
            yield Comparison(prompt, first, second, verdict, row.where, first_numbers, second_numbers)

    def _pair_numbers(self, row: Row) -> tuple[Numbers, Numbers]:
        first = tuple(sign * _number(row, reward.chosen) for reward, sign in self.columns)
        second = tuple(sign * _number(row, reward.rejected) for reward, sign in self.columns)
        return first, second

    def _list_numbers(self, row: Row, count: int) -> list[Numbers]:
        columns = []
        for reward, sign in self.columns:
            values = _value(row, reward.score)
            known = isinstance(values, list) and len(values) == count
            columns.append([sign * _as_number(value) for value in values] if known else [math.nan] * count)
        return [tuple(column[number] for column in columns) for number in range(count)]


def _has_conversations(row: Row, form: PairColumns) -> bool:
    """Whole conversations without a prompt column: TRL's implicit prompt. Of plain text it has to be asked for."""
    default = form.prompt == DEFAULT_PROMPT and form.prompt not in row.values
    return default and all(isinstance(row.values.get(column), list) for column in (form.chosen, form.rejected))


def compare(first: float | None, second: float | None, *, min_gap: float, same: bool = False) -> Verdict:
    """Which of two scores is better by more than a gap; responses of the same text are a tie whatever they scored."""
    if first is None or second is None:
        return "missing"
    if same or abs(first - second) <= min_gap:
        return "tie"
    return "first" if first > second else "second"


def _even_lists(row: Row, responses_column: str, column: str) -> tuple[list[Any], list[Any]]:
    """The responses of a ranked row, and as many ranks or scores."""
    responses, values = collect(lambda: lookup(row, responses_column), lambda: lookup(row, column))
    if not isinstance(responses, list):
        raise InputError(type_problem(row, responses_column, kind_of(responses), "a list of responses"))
    if not isinstance(values, list) or len(responses) != len(values):
        raise InputError(_uneven(row, column, values, len(responses)))
    return responses, values


def _rated_responses(row: Row, prompt: Prompt, columns: tuple[str, str], items: Iterable[tuple[Any, Any]]) -> list[Any]:
    """(text, rating) of each response of a ranked row; an empty one among many is left out, as if it had no rating."""

    def rated(number: int, response: Any, value: Any) -> Sequence[Any]:
        if isinstance(response, str) and not response.strip():
            return "", None
        places = [f"{column}, item {number}" for column in columns]
        return collect(
            lambda: response_of(response, row, places[0], prompt=prompt), lambda: rating(value, row, places[1])
        )

    return collect(*(partial(rated, number, *item) for number, item in enumerate(items, start=1)))


def _verdict(row: Row, form: ComparedColumns) -> Verdict:
    """What a label says. A truth value is no number: True is not 1.

    Raises:
        InputError: there is none, or none that is declared.
    """
    label = lookup(row, form.label)

    def among(values: Sequence[bool | int | str]) -> bool:
        return any(label == value and isinstance(label, bool) == isinstance(value, bool) for value in values)

    if among(form.first_wins):
        return "first"
    if among(form.second_wins):
        return "second"
    if among(form.ties):
        return "tie"
    if label is None:
        return "missing"
    raise InputError(_unknown_label(row, form, label))


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
    number = number_of(value)
    return number if number is not None and math.isfinite(number) else math.nan


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
        got=told(label),
        wanted="; ".join(f"{name}: {', '.join(map(repr, values)) or 'none'}" for name, values in declared.items()),
        remedy="name it in the sweep file under first_wins, second_wins or ties",
    )


def _uneven(row: Row, column: str, values: Any, num_responses: int) -> Problem:
    got = f"{len(values)} values" if isinstance(values, list) else kind_of(values)
    return Problem(
        code="MS-244",
        what="a ranked row has not one rank or score for each response",
        where=f"{row.where} ({column})",
        got=f"{got} for {num_responses} responses",
        wanted=f"a list of {num_responses}",
        remedy="mend or remove the row",
    )
