"""Prompts and responses as people write them: plain text, or chat messages."""

from __future__ import annotations

import json
import math
from typing import Any

from modpo.data.sources import Row, lookup
from modpo.errors import InputError, Problem, shown

# Rows that say nothing, as against rows that say something else than we can read.
UNUSABLE = frozenset({"MS-207", "MS-208", "MS-273"})

MISSING_RATINGS = frozenset({"", "n/a", "na", "nan", "none", "null", "-"})

Message = dict[str, str]
Prompt = str | tuple[tuple[str, str], ...]
"""Plain text, or chat messages as (role, content)."""


def prompt_key(prompt: Prompt) -> str:
    """One string for a prompt, plain or messages: what splits and joins compare."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def prompt_from_json(text: str) -> Prompt:
    """The inverse of `json.dumps(prompt)`."""
    value = json.loads(text)
    return value if isinstance(value, str) else tuple((role, content) for role, content in value)


def read_prompt(row: Row, column: str) -> Prompt:
    """A prompt as text or messages.

    Raises:
        InputError: missing, of another type, or empty.
    """
    value = lookup(row, column)
    if isinstance(value, str):
        return checked_text(value, row, column)
    return as_turns(checked_messages(value, row, column))


def read_response(row: Row, column: str) -> str:
    """A response as text, or the content of its single assistant message.

    Raises:
        InputError: missing, of another type, or empty.
    """
    return response_of(lookup(row, column), row, column)


def response_of(value: Any, row: Row, column: str, *, prompt: Prompt | None = None) -> str:
    """A response as text; of messages the last, where those before it are the prompt's.

    Raises:
        InputError: of another type, empty, or messages that are no answer to the prompt.
    """
    if isinstance(value, str):
        return checked_text(value, row, column)
    messages = checked_messages(value, row, column)
    turns = as_turns(messages)
    before = turns[:-1]
    if turns[-1][0] != "assistant" or (before and before != prompt):
        raise InputError(
            type_problem(
                row,
                column,
                f"{len(messages)} messages",
                "text, or messages that repeat the prompt and end with one of the 'assistant'",
            )
        )
    return turns[-1][1]


def implicit_pair(row: Row, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """(prompt, chosen, rejected) where the prompt is what both responses begin with, as in TRL's data sets.

    Messages: all turns before the last, which must be equal. Text: the longest common beginning that ends between two
    words.

    Raises:
        InputError: the two do not begin alike, or one of them ends there.
    """
    first, second = lookup(row, chosen), lookup(row, rejected)
    if isinstance(first, str) and isinstance(second, str):
        end = _common_words(checked_text(first, row, chosen), checked_text(second, row, rejected))
        found: tuple[Prompt, str, str] = (first[:end], first[end:], second[end:])
    else:
        turns, others = (
            as_turns(checked_messages(value, row, column)) for value, column in ((first, chosen), (second, rejected))
        )
        alike = turns[:-1] == others[:-1] and turns[-1][0] == others[-1][0] == "assistant"
        found = (turns[:-1] if alike else (), turns[-1][1], others[-1][1])
    if not found[0] or not all(text.strip() for text in found[1:]):
        raise InputError(
            Problem(
                code="MS-245",
                what="chosen and rejected do not begin with the same prompt",
                where=f"{row.where} ({chosen}, {rejected})",
                wanted="two texts or conversations that begin alike and end differently",
                remedy="give a prompt column, or remove the row",
            )
        )
    return found


def _common_words(first: str, second: str) -> int:
    """Length of the longest common beginning that does not end inside a word."""
    end = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    while end > 0 and not first[end - 1].isspace():
        end -= 1
    return end


def as_turns(messages: list[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def checked_text(value: str, row: Row, column: str) -> str:
    """A text with something to read, that can be written as UTF-8.

    Raises:
        InputError: otherwise.
    """
    place = f"{row.where} ({column})"
    if not value.strip():
        raise InputError(
            Problem(
                code="MS-208",
                what="the text is empty",
                where=place,
                got=shown(value),
                wanted="at least one visible character",
                remedy="fill or remove the row",
            )
        )
    if "\x00" in value:
        raise InputError(
            Problem(
                code="MS-242",
                what="the text has a NUL character",
                where=place,
                got=f"U+0000 at character {value.index(chr(0))}",
                wanted="text without NUL characters",
                remedy="remove it: it is the sign of a broken export",
            )
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            Problem(
                code="MS-210",
                what="the text has half of a surrogate pair, which is no character",
                where=place,
                got=f"U+{ord(value[error.start]):04X} at character {error.start}",
                wanted="text that can be written as UTF-8",
                remedy="mend the text where it was cut inside an emoji, or remove the row",
            )
        ) from error
    return value


def checked_messages(value: Any, row: Row, column: str) -> list[Message]:
    """Chat messages, at least one, each with a role and a content.

    Raises:
        InputError: otherwise.
    """
    valid = (
        isinstance(value, list)
        and value
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
        )
    )
    if not valid:
        raise InputError(
            type_problem(row, column, shown(type(value).__name__), "text, or a list of {role, content} messages")
        )
    for message in value:
        checked_text(message["content"], row, column)
    return list(value)


def rating(value: Any, row: Row, column: str) -> float | None:
    """A number, also one written as text; None for a rating that is missing: null, empty, `N/A`.

    Raises:
        InputError: anything else, or a number that is not finite.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING_RATINGS):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(type_problem(row, column, shown(value), "a number"))
    try:
        number = float(value)
    except ValueError:
        raise InputError(type_problem(row, column, shown(value), "a number")) from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(type_problem(row, column, shown(value), "a finite number"))
    return number


def type_problem(row: Row, column: str, got: str, wanted: str) -> Problem:
    return Problem(
        code="MS-209",
        what="a value has the wrong type",
        where=f"{row.where} ({column})",
        got=got,
        wanted=wanted,
        remedy="mend or remove the row",
    )
