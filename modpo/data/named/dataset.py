"""What a named data set is: a preset form for each dimension and, where the raw rows need it, a row transform."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modpo.config.sources import ComparedColumns, NamedColumns, PairColumns, RankedColumns, ScoredColumns
from modpo.data.rows import columns_of, told
from modpo.errors import InputError, Problem, closest, shown

RawRow = Mapping[str, Any]
Form = PairColumns | ScoredColumns | RankedColumns | ComparedColumns
Transform = Callable[[RawRow], Iterable[RawRow]]


def as_they_are(row: RawRow) -> Iterable[RawRow]:
    """The transform of sets whose columns a form can name as they stand."""
    return (row,)


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One thing that people or judges said about the responses.

    Attributes:
        prefers: what the preferred response has more of, for the page of data sets.
        form: the columns that the transformed rows have.
        transform: raw row to the rows that `form` reads.
    """

    prefers: str
    form: Form
    transform: Transform = as_they_are


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """A public data set that modpo can read without being told its columns.

    Attributes:
        name: as `pairs.named.dataset` has it.
        hub_id: Hugging Face id; None where the set is published elsewhere.
        home: where to read about it.
        licence: as its publishers state it.
        dimensions: by name, in the order of the page.
        columns: the raw columns that are read.
        checked: what the columns and labels were verified against.
        traps: what goes wrong most easily with this set.
    """

    name: str
    hub_id: str | None
    home: str
    licence: str
    dimensions: Mapping[str, Dimension]
    columns: str
    checked: str
    traps: tuple[str, ...] = ()

    def form(self, dimension: str, named: NamedColumns) -> Form:
        """The preset of a dimension with the limits that the config sets.

        Raises:
            InputError: unknown dimension, or a limit that means nothing for this set.
        """
        form = self._dimension(dimension).form
        if isinstance(form, ScoredColumns | RankedColumns):
            limits = {"min_gap": named.min_gap, "max_pairs_per_prompt": named.max_pairs_per_prompt}
            return form.model_copy(update={key: limit for key, limit in limits.items() if limit is not None})
        if named.max_pairs_per_prompt is not None:
            raise InputError(self._meaningless("max_pairs_per_prompt", "the set gives its pairs itself"))
        if named.min_gap is None:
            return form
        if isinstance(form, ComparedColumns) and (graded := _with_min_gap(form, named.min_gap)) is not None:
            return graded
        raise InputError(self._meaningless("min_gap", "its labels only say which response is preferred"))

    def transform(self, row: RawRow, dimension: str) -> Iterable[RawRow]:
        """A raw row as the rows that the dimension's form reads.

        Raises:
            InputError: unknown dimension, a row of another schema (MS-274), or one without a preference (MS-273).
        """
        return self._dimension(dimension).transform(row)

    def _dimension(self, name: str) -> Dimension:
        if name not in self.dimensions:
            known = list(self.dimensions)
            raise InputError(
                Problem(
                    code="MS-271",
                    what=f"{self.name} has no such dimension{closest(name, known)}",
                    where="pairs.named.dimension",
                    got=shown(name),
                    wanted=f"one of {', '.join(known)}",
                    remedy="take one of them; docs/data.md says what each means",
                )
            )
        return self.dimensions[name]

    def _meaningless(self, key: str, reason: str) -> Problem:
        return Problem(
            code="MS-272",
            what=f"{key} has no meaning for this dimension of {self.name}",
            where=f"pairs.named.{key}",
            got=reason,
            wanted="pairs that are formed from scores, or labels that are grades",
            remedy="leave it out",
        )


def _with_min_gap(form: ComparedColumns, min_gap: float) -> ComparedColumns | None:
    """Labels such as -3 .. 3, negative for the first: those not beyond the gap become ties. None for other labels."""
    first = [label for label in form.first_wins if isinstance(label, int) and label < 0]
    second = [label for label in form.second_wins if isinstance(label, int) and label > 0]
    if len(first) < len(form.first_wins) or len(second) < len(form.second_wins):
        return None
    weak = [label for label in (*first, *second) if abs(label) <= min_gap]
    return form.model_copy(
        update={
            "first_wins": tuple(label for label in first if label not in weak),
            "second_wins": tuple(label for label in second if label not in weak),
            "ties": (*form.ties, *weak),
        }
    )


def read(row: RawRow, column: str, *kinds: type) -> Any:
    """A raw column of an expected type; transforms read nothing else.

    Raises:
        InputError: missing or of another type, so the rows are not those of the named set.
    """
    value = row.get(column)
    # `bool` is a subclass of `int`, and True is no severity.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise wrong_schema(row, column)
    return value


def rating(row: RawRow, column: str) -> float | None:
    """A rating that may be a number, the same as text, or missing: no column, null, an empty text, `N/A` or NaN.

    Raises:
        InputError: anything else.
    """
    value = row.get(column)
    if value is None or (isinstance(value, str) and value.strip().upper() in {"", "N/A"}):
        return None
    try:
        number = float(read(row, column, int, float, str))
    except (ValueError, OverflowError):
        raise wrong_schema(row, column) from None
    if math.isinf(number):
        raise wrong_schema(row, column)
    return None if math.isnan(number) else number


def wrong_schema(row: RawRow, column: str) -> InputError:
    """A row that is none of the named set: most likely another file, folder or subset."""
    return InputError(
        Problem(
            code="MS-274",
            what="the row has not the columns of the named data set",
            where=column,
            got=told(row[column]) if column in row else columns_of(row),
            wanted=f"a column {column!r} as docs/data.md describes it",
            remedy="check that path, subset and data_dir hold the named data set, or name the columns yourself",
        )
    )


def unusable(what: str, column: str) -> InputError:
    """A row that follows the schema and still holds no preference; it is counted where such rows may be dropped."""
    return InputError(
        Problem(
            code="MS-273",
            what=what,
            where=column,
            got="a row that compares nothing",
            wanted="a preference between two responses to one prompt",
            remedy="set data.unusable_rows to drop: such rows are then left out and counted",
        )
    )
