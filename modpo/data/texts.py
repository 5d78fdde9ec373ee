"""Prompts and responses as people write them: plain text, or chat messages."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from modpo.data.rows import Row, columns_of, kind_of, lookup, told
from modpo.errors import InputError, Problem

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


def is_unusable(problems: Sequence[Problem]) -> bool:
    """Whether all that is wrong with a row is that it says nothing: such rows may be dropped."""
    return {problem.code for problem in problems} <= UNUSABLE


def collect(*readers: Callable[[], Any]) -> list[Any]:
    """What the readers of one row give.

    Raises:
        InputError: all that any of them refuses.
    """
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


def read_prompt(row: Row, column: str) -> Prompt:
    """A prompt as text or messages.

    Raises:
        InputError: missing, of another type, or empty.
    """
    value = lookup(row, column)
    if isinstance(value, str):
        return checked_text(value, row, column)
    return as_turns(checked_messages(value, row, column))


def read_texts(row: Row, prompt_column: str, *columns: str) -> tuple[Prompt, list[str]]:
    """A prompt and responses, which may repeat it.

    Raises:
        InputError: all that is wrong with any of them.
    """
    prompt: Prompt | None = None
    problems: list[Problem] = []
    try:
        prompt = read_prompt(row, prompt_column)
    except InputError as error:
        problems += error.problems
    texts: list[str] = []
    for column in columns:
        try:
            texts.append(response_of(lookup(row, column), row, column, prompt=prompt))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    assert prompt is not None, "a row without problems has a prompt"
    return prompt, texts


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
    fault = None
    if turns[-1][0] != "assistant":
        fault = f"{len(turns)} messages, the last by {told(turns[-1][0])}"
    elif before and before != prompt:
        fault = f"{len(turns)} messages that do not begin as the prompt does"
    if fault is not None:
        wanted = "text, or messages that repeat the prompt and end with one of the 'assistant'"
        raise InputError(type_problem(row, column, fault, wanted))
    return turns[-1][1]


def implicit_pair(row: Row, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """(prompt, chosen, rejected) where the prompt is what both responses begin with, as in TRL's data sets.

    Messages: all turns before the last, which must be equal. Text: the longest common beginning that ends between two
    words.

    Raises:
        InputError: the two are the same, do not begin alike, or one of them ends there.
    """
    first, second = collect(lambda: _text_or_turns(row, chosen), lambda: _text_or_turns(row, rejected))
    if first == second:
        raise InputError(same_text(row, chosen, rejected))
    if isinstance(first, str) and isinstance(second, str):
        end = _common_words(first, second)
        found: tuple[Prompt, str, str] = (first[:end], first[end:], second[end:])
    elif isinstance(first, str) or isinstance(second, str):
        raise InputError(_begin_differently(row, (chosen, rejected), "a text and a list of messages"))
    else:
        answered = first[:-1] == second[:-1] and first[-1][0] == second[-1][0] == "assistant"
        found = (first[:-1] if answered else (), first[-1][1], second[-1][1])
    if not found[0] or not all(text.strip() for text in found[1:]):
        unit = "characters" if isinstance(first, str) else "messages"
        got = f"{_alike(first, second)} {unit} alike at the beginning of {len(first)} and {len(second)}"
        raise InputError(_begin_differently(row, (chosen, rejected), got))
    return found


def _text_or_turns(row: Row, column: str) -> Prompt:
    value = lookup(row, column)
    return (
        checked_text(value, row, column) if isinstance(value, str) else as_turns(checked_messages(value, row, column))
    )


def _alike(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common beginning."""
    unlike = (number for number, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(unlike, min(len(first), len(second)))


def _common_words(first: str, second: str) -> int:
    """Length of the longest common beginning that does not end inside a word."""
    end = _alike(first, second)
    while end > 0 and not first[end - 1].isspace():
        end -= 1
    return end


def _begin_differently(row: Row, columns: tuple[str, str], got: str) -> Problem:
    return Problem(
        code="MS-245",
        what="chosen and rejected do not begin with the same prompt",
        where=f"{row.where} ({', '.join(columns)})",
        got=got,
        wanted="two texts or conversations that begin alike and end differently",
        remedy="give a prompt column, or remove the row",
    )


def same_text(row: Row, first: str, second: str) -> Problem:
    return Problem(
        code="MS-207",
        what="chosen and rejected are the same text",
        where=f"{row.where} ({first}, {second})",
        got="one text twice",
        wanted="two different responses",
        remedy="remove the row: it carries no preference",
    )


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
                got=kind_of(value),
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
    if isinstance(value, list) and value:
        fault = next(filter(None, map(_message_fault, value, itertools.count(1))), None)
    else:
        fault = kind_of(value)
    if fault is not None:
        raise InputError(type_problem(row, column, fault, "text, or a list of {role, content} messages"))
    for number, message in enumerate(value, start=1):
        checked_text(message["content"], row, f"{column}, message {number}")
    return list(value)


def _message_fault(message: Any, number: int) -> str | None:
    """What is wrong with the form of a message, if anything."""
    if not isinstance(message, dict):
        return f"message {number} is {kind_of(message)}"
    if not {"role", "content"} <= message.keys():
        return f"message {number} with {columns_of(message)}"
    wrong = [key for key in ("role", "content") if not isinstance(message[key], str)]
    return f"message {number} with {kind_of(message[wrong[0]])} as {wrong[0]}" if wrong else None


def rating(value: Any, row: Row, column: str) -> float | None:
    """A number, also one written as text; None for a rating that is missing: null, empty, `N/A`.

    Raises:
        InputError: anything else, or a number that is not finite.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING_RATINGS):
        return None
    number = number_of(value)
    if number is None:
        raise InputError(type_problem(row, column, told(value), "a number"))
    if not math.isfinite(number):
        raise InputError(type_problem(row, column, told(value), "a finite number"))
    return number


def number_of(value: Any) -> float | None:
    """A number, also one written as text, NaN and infinity among them; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def type_problem(row: Row, column: str, got: str, wanted: str) -> Problem:
    return Problem(
        code="MS-209",
        what="a value has the wrong type",
        where=f"{row.where} ({column})",
        got=got,
        wanted=wanted,
        remedy="mend or remove the row",
    )
