"""Rows to preference pairs: chosen and rejected as given, or formed from scored responses of the same prompt."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from modpo.config.objectives import ObjectiveConfig
from modpo.config.sources import PairColumns, ScoredColumns
from modpo.data.sources import Row, lookup, read_rows
from modpo.errors import InputError, Problem, shown

# Rows that say nothing, as against rows that say something else than we can read.
UNUSABLE = frozenset({"MS-207", "MS-208"})

Message = dict[str, str]
Prompt = str | tuple[tuple[str, str], ...]
"""Plain text, or chat messages as (role, content)."""


@dataclass(frozen=True)
class PreferencePair:
    """One comparison for one objective.

    Attributes:
        pair_id: digest of objective, texts and occurrence; equal rows are separate draws and keep separate ids.
        where: file and row it came from.
    """

    pair_id: str
    objective: str
    prompt: Prompt
    chosen: str
    rejected: str
    where: str


@dataclass
class PairCounts:
    """What became of the rows of one source: nothing is dropped without being counted here."""

    rows: int = 0
    pairs: int = 0
    ties: int = 0
    duplicates: int = 0
    too_long: int = 0
    unusable: int = 0

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass
class LoadedPairs:
    """All pairs of one objective, what was counted, and every problem found on the way."""

    pairs: list[PreferencePair] = field(default_factory=list)
    counts: PairCounts = field(default_factory=PairCounts)
    problems: list[Problem] = field(default_factory=list)
    drop_unusable: bool = False

    def reject(self, problems: Sequence[Problem]) -> None:
        """A row that cannot be used: a problem, or counted where rows without content may be dropped."""
        if self.drop_unusable and {problem.code for problem in problems} <= UNUSABLE:
            self.counts.unusable += 1
        else:
            self.problems += problems


def load_pairs(objective: ObjectiveConfig, *, seed: int, drop_unusable: bool = False) -> LoadedPairs:
    """Reads an objective's source to the end; problems are collected, not raised, so that all can be shown.

    Args:
        seed: draws the pairs kept where `scored.max_pairs_per_prompt` limits them.
        drop_unusable: leave out and count rows with an empty text or two equal responses.
    """
    assert objective.pairs is not None, f"objective {objective.name} has no pairs"
    loaded, rows = LoadedPairs(drop_unusable=drop_unusable), []
    try:
        for item in read_rows(objective.pairs):
            loaded.counts.rows += 1
            if isinstance(item, Problem):
                loaded.problems.append(item)
            else:
                rows.append(item)
    except InputError as error:
        loaded.problems.extend(error.problems)
        return loaded
    if not rows and not loaded.problems:
        loaded.problems.append(
            Problem(code="MS-201", what="the source has no rows", where=objective.pairs.path, remedy="give it data")
        )
    if objective.pairs.scored is None:
        texts = _given_pairs(rows, objective, loaded)
    else:
        texts = _formed_pairs(rows, objective, objective.pairs.scored, loaded, seed)
    occurrences: Counter[str] = Counter()
    for prompt, chosen, rejected, where in texts:
        key = _text_digest(objective.name, prompt, chosen, rejected)
        loaded.counts.duplicates += occurrences[key] > 0
        pair_id = f"{key}-{occurrences[key]}"
        occurrences[key] += 1
        loaded.pairs.append(PreferencePair(pair_id, objective.name, prompt, chosen, rejected, where))
    loaded.counts.pairs = len(loaded.pairs)
    return loaded


def prompt_key(prompt: Prompt) -> str:
    """One string for a prompt, plain or messages: what splits and joins compare."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def read_prompt(row: Row, column: str) -> Prompt:
    """A prompt as text or messages.

    Raises:
        InputError: missing, of another type, or empty.
    """
    value = lookup(row, column)
    if isinstance(value, str):
        return _text(value, row, column)
    return tuple((message["role"], message["content"]) for message in _messages(value, row, column))


def read_response(row: Row, column: str) -> str:
    """A response as text, or the content of its single assistant message.

    Raises:
        InputError: missing, of another type, or empty.
    """
    value = lookup(row, column)
    if isinstance(value, str):
        return _text(value, row, column)
    messages = _messages(value, row, column)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise InputError(
            _type_problem(row, column, f"{len(messages)} messages", "text, or one message with the role 'assistant'")
        )
    return messages[0]["content"]


TextPair = tuple[Prompt, str, str, str]


def _given_pairs(rows: Iterable[Row], objective: ObjectiveConfig, loaded: LoadedPairs) -> Iterator[TextPair]:
    assert objective.pairs is not None
    columns = objective.pairs.form
    assert isinstance(columns, PairColumns) and columns.prompt is not None
    for row in rows:
        problems: list[Problem] = []
        values: list[Any] = []
        for column, read in (
            (columns.prompt, read_prompt),
            (columns.chosen, read_response),
            (columns.rejected, read_response),
        ):
            try:
                values.append(read(row, column))
            except InputError as error:
                problems += error.problems
        if not problems and values[1] == values[2]:
            problems.append(
                Problem(
                    code="MS-207",
                    what="chosen and rejected are the same text",
                    where=f"{row.where} ({columns.chosen}, {columns.rejected})",
                    wanted="two different responses",
                    remedy="remove the row: it carries no preference",
                )
            )
        if problems:
            loaded.reject(problems)
        else:
            yield values[0], values[1], values[2], row.where


def _formed_pairs(
    rows: Iterable[Row], objective: ObjectiveConfig, scored: ScoredColumns, loaded: LoadedPairs, seed: int
) -> Iterator[TextPair]:
    sign = 1.0 if objective.direction == "maximize" else -1.0
    by_prompt: dict[str, list[tuple[Prompt, str, float, str]]] = defaultdict(list)
    for row in rows:
        try:
            prompt, response = read_prompt(row, scored.prompt), read_response(row, scored.response)
            score = sign * _number(lookup(row, scored.score), row, scored.score)
        except InputError as error:
            loaded.reject(error.problems)
            continue
        by_prompt[prompt_key(prompt)].append((prompt, response, score, row.where))
    for key in sorted(by_prompt):
        formed: list[TextPair] = []
        for first, second in itertools.combinations(by_prompt[key], 2):
            if first[1] == second[1] or abs(first[2] - second[2]) <= scored.min_gap:
                loaded.counts.ties += 1
                continue
            better, worse = (first, second) if first[2] > second[2] else (second, first)
            formed.append((better[0], better[1], worse[1], better[3]))
        limit = scored.max_pairs_per_prompt
        if limit is not None and len(formed) > limit:
            formed = random.Random(f"{seed}:{objective.name}:{key}").sample(formed, limit)
        yield from formed


def _text(value: str, row: Row, column: str) -> str:
    if not value.strip():
        raise InputError(
            Problem(
                code="MS-208",
                what="the text is empty",
                where=f"{row.where} ({column})",
                got=shown(value),
                wanted="at least one visible character",
                remedy="fill or remove the row",
            )
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            Problem(
                code="MS-210",
                what="the text has half of a surrogate pair, which is no character",
                where=f"{row.where} ({column})",
                got=f"U+{ord(value[error.start]):04X} at character {error.start}",
                wanted="text that can be written as UTF-8",
                remedy="mend the text where it was cut inside an emoji, or remove the row",
            )
        ) from error
    return value


def _messages(value: Any, row: Row, column: str) -> list[Message]:
    valid = (
        isinstance(value, list)
        and value
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
        )
    )
    if not valid:
        raise InputError(
            _type_problem(row, column, shown(type(value).__name__), "text, or a list of {role, content} messages")
        )
    for message in value:
        _text(message["content"], row, column)
    return list(value)


def _number(value: Any, row: Row, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(_type_problem(row, column, shown(value), "a number"))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(_type_problem(row, column, shown(value), "a finite number"))
    return number


def _type_problem(row: Row, column: str, got: str, wanted: str) -> Problem:
    return Problem(
        code="MS-209",
        what="a value has the wrong type",
        where=f"{row.where} ({column})",
        got=got,
        wanted=wanted,
        remedy="mend or remove the row",
    )


def _text_digest(objective: str, prompt: Prompt, chosen: str, rejected: str) -> str:
    text = json.dumps([objective, prompt, chosen, rejected], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
