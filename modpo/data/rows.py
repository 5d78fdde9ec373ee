"""One record of a source: its place, its columns, and how a message speaks of a value without quoting a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modpo.errors import InputError, Problem, closest, shown

LISTED_NAMES = 12
LONGEST_NAME = 40
LONGEST_WORD = 24


@dataclass(frozen=True)
class Row:
    """One record and where it stands, `file:line` with lines counted from 1."""

    where: str
    values: Mapping[str, Any]


def lookup(row: Row, dotted: str) -> Any:
    """The value of a column: `a.b` reaches into nested mappings, `a.0` into lists, `a.b` over a list takes each b.

    A column that is called `a.b` as a whole, as in a CSV file, comes first.

    Raises:
        InputError: the row has no such column; the message lists those it has.
    """
    if dotted in row.values:
        return row.values[dotted]
    node: Any = row.values
    for part in dotted.split("."):
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, list) and node and all(isinstance(item, Mapping) and part in item for item in node):
            node = [item[part] for item in node]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            raise InputError(_missing_column(row, dotted, part, node))
    return node


def kind_of(value: object) -> str:
    """What a value is, without what it says."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text (1 character)" if len(value) == 1 else f"text ({len(value)} characters)"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def told(value: object) -> str:
    """A label or a number as a message may show it: one short word at most, for a longer one may be somebody's text."""
    one_word = isinstance(value, str) and len(value) <= LONGEST_WORD and value.split() == [value]
    return shown(value) if one_word or isinstance(value, int | float) else kind_of(value)


def columns_of(values: Mapping[Any, Any]) -> str:
    """The names of columns. One with white space in it may be a text: of a CSV file without a header, it is."""
    if not values:
        return "no columns"
    names = _plain_names(values)[:LISTED_NAMES]
    if not names:
        return f"{len(values)} columns, none with a plain name"
    more = len(values) - len(names)
    return f"columns {', '.join(names)}" + (f" and {more} more" if more else "")


def _plain_names(values: Mapping[Any, Any]) -> list[str]:
    return sorted(name for name in map(str, values) if len(name) <= LONGEST_NAME and name.split() == [name])


def _missing_column(row: Row, dotted: str, part: str, node: Any) -> Problem:
    known: Sequence[str] = _plain_names(node) if isinstance(node, Mapping) else ()
    return Problem(
        code="MS-202",
        what=f"column {dotted!r} is missing{closest(part, known)}",
        where=f"{row.where} ({dotted})",
        got=columns_of(node) if isinstance(node, Mapping) else _without(part, node),
        wanted=f"a column {dotted!r}",
        remedy="name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)",
    )


def _without(part: str, node: object) -> str:
    """The first item of a list that has not the column which others have, or what there is instead of a list."""
    if isinstance(node, list) and not part.isdecimal() and any(isinstance(item, Mapping) for item in node):
        lacking = ((number, item) for number, item in enumerate(node, start=1) if part not in _keys(item))
        for number, item in lacking:
            return f"item {number} of {len(node)} with " + (columns_of(item) if _keys(item) else kind_of(item))
    return kind_of(node)


def _keys(item: object) -> Mapping[Any, Any]:
    return item if isinstance(item, Mapping) else {}
