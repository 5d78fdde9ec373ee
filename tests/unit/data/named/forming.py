"""Pairs from raw rows, told from the forms alone: what the named sets must come to, whatever the loader does."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modpo.config.sources import ComparedColumns, NamedColumns, PairColumns, RankedColumns, ScoredColumns
from modpo.data.named import named_dataset
from modpo.errors import InputError

Scored = tuple[str, float | None]


@dataclass
class Formed:
    """Pairs as (prompt, chosen, rejected), and what became no pair.

    Attributes:
        missing: responses without a score; within a row, comparisons that lack one.
    """

    pairs: list[tuple[Any, str, str]] = field(default_factory=list)
    ties: int = 0
    missing: int = 0
    unusable: int = 0

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return len(self.pairs), self.ties, self.missing, self.unusable

    def compare(self, prompt: Any, scored: Iterable[Scored], min_gap: float) -> None:
        present = [(text, score) for text, score in scored if score is not None]
        for first, second in itertools.combinations(present, 2):
            if first[0] == second[0] or abs(first[1] - second[1]) <= min_gap:
                self.ties += 1
            else:
                better, worse = sorted((first, second), key=lambda item: -item[1])
                self.pairs.append((prompt, better[0], worse[0]))


def read_file(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert isinstance(rows, list)
    return rows


def form_pairs(dataset: str, dimension: str, raw: Iterable[Mapping[str, Any]], **limits: Any) -> Formed:
    """All pairs of one dimension of a named set."""
    preset, formed = named_dataset(dataset), Formed()
    form = preset.form(dimension, NamedColumns(dataset=dataset, dimension=dimension, **limits))
    rows: list[Mapping[str, Any]] = []
    for raw_row in raw:
        try:
            rows += preset.transform(raw_row, dimension)
        except InputError as error:
            formed.unusable += {problem.code for problem in error.problems} == {"MS-273"}
    match form:
        case PairColumns():
            _given(rows, form, formed)
        case ComparedColumns():
            _compared(rows, form, formed)
        case RankedColumns():
            for row in rows:
                scored = list(zip(column(row, form.responses), column(row, form.scores or ""), strict=True))
                formed.missing += sum(None in (a, b) for (_, a), (_, b) in itertools.combinations(scored, 2))
                formed.compare(column(row, form.prompt), scored, form.min_gap)
        case ScoredColumns():
            _scored(rows, form, formed)
    return formed


def column(row: Any, dotted: str) -> Any:
    """`a.b` into mappings, `a.0` into lists, `a.b` into every item of a list."""
    for depth, part in enumerate(parts := dotted.split(".")):
        if isinstance(row, list) and not part.isdecimal():
            return [column(item, ".".join(parts[depth:])) for item in row]
        row = row[int(part)] if isinstance(row, list) else row[part]
    return row


def _given(rows: Iterable[Mapping[str, Any]], form: PairColumns, formed: Formed) -> None:
    for row in rows:
        chosen, rejected = column(row, form.chosen), column(row, form.rejected)
        if chosen and rejected and chosen != rejected:
            formed.pairs.append((column(row, form.prompt or ""), chosen, rejected))
        else:
            formed.unusable += 1


def _compared(rows: Iterable[Mapping[str, Any]], form: ComparedColumns, formed: Formed) -> None:
    for row in rows:
        label, first, second = (column(row, name) for name in (form.label, form.first, form.second))
        assert [label in labels for labels in (form.first_wins, form.second_wins, form.ties)].count(True) == 1
        if label in form.ties:
            formed.ties += 1
        else:
            better = (first, second) if label in form.first_wins else (second, first)
            formed.pairs.append((column(row, form.prompt), *better))


def _scored(rows: Iterable[Mapping[str, Any]], form: ScoredColumns, formed: Formed) -> None:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        score = column(row, form.score)
        formed.missing += score is None
        groups[json.dumps(column(row, form.prompt))].append((column(row, form.response), score))
    for prompt, scored in groups.items():
        formed.compare(json.loads(prompt), scored, form.min_gap)
