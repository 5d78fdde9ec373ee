"""All rows of a sweep, read and checked before any token is made; loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pyarrow

from modpo.config.rewards import TrainedReward
from modpo.config.sources import PromptData, ScoredData, SourceConfig, TextData
from modpo.config.tree import LabelConfig, SweepConfig
from modpo.data.counts import Problems, in_order
from modpo.data.held_out import distinct_ranks, highest_of, seeded_rank
from modpo.data.pairs import LoadedPairs, PreferencePair, load_pairs
from modpo.data.rows import Row, lookup
from modpo.data.sources import read_rows
from modpo.data.spool import Spool
from modpo.data.texts import (
    Prompt,
    collect,
    is_unusable,
    prompt_from_json,
    prompt_key,
    rating,
    read_prompt,
    read_texts,
    type_problem,
)
from modpo.errors import InputError, Problem

T = TypeVar("T")
Text = tuple[Prompt, str]
Scored = tuple[Prompt, str, float]


@dataclass(frozen=True)
class LoadedData:
    """All text of a sweep, read and checked, before any token is made. It lies in temporary files, not in memory.

    Attributes:
        objectives: pairs of each objective that has some.
        sft: texts to imitate, where they are given.
        label_prompts: distinct prompts for which pairs are made.
        scored: for each objective whose reward model is trained by regression: texts with raw numbers.
        unusable: rows that say nothing and were left out, by the place in the sweep file; those of pairs stand in
            their counts.
    """

    objectives: dict[str, LoadedPairs]
    sft: Spool[Text]
    label_prompts: Spool[Prompt] = field(default_factory=lambda: _prompt_spool())  # noqa: PLW0108 # defined below
    scored: Mapping[str, Spool[Scored]] = field(default_factory=dict)
    unusable: Mapping[str, int] = field(default_factory=dict)

    @property
    def pairs(self) -> Iterator[PreferencePair]:
        for loaded in self.objectives.values():
            yield from loaded.pairs

    @property
    def prompts(self) -> Iterator[Prompt]:
        """The prompt of every row, as often as it is there."""
        pairs = [loaded.pairs for loaded in self.objectives.values()]
        spools: list[Spool[Any]] = [*pairs, self.label_prompts, *self.scored.values()]
        for spool in spools:
            yield from map(prompt_from_json, spool.column("prompt"))


def load_data(config: SweepConfig) -> LoadedData:
    """Reads every source.

    Raises:
        InputError: all bad rows of all sources together.
    """
    data, problems = read_data(config)
    if problems:
        raise InputError(problems)
    return data


def read_data(config: SweepConfig) -> tuple[LoadedData, list[Problem]]:
    """All data that can be read, and every problem of the rest."""
    drop = config.data.unusable_rows == "drop"
    objectives = {
        o.name: load_pairs(o, seed=config.seed, drop_unusable=drop, objectives=config.objectives)
        for o in config.objectives
        if o.pairs is not None
    }
    others = _Others(drop)
    sft = others.texts(config.sft.data if config.sft else None)
    prompts = others.prompts(config.label, seed=config.seed)
    scored = others.scored(config)
    data = LoadedData(objectives, sft, prompts, scored, others.unusable)
    problems = [problem for loaded in objectives.values() for problem in loaded.problems] + others.problems
    return data, in_order(problems or _check_enough(data))


def data_digest(data: LoadedData) -> str:
    """Changes with any text, number, order or occurrence of any row."""
    digest = hashlib.sha256()
    for pair in data.pairs:
        digest.update(json.dumps([pair.pair_id, pair.column_rewards]).encode())
    others: list[Iterable[Any]] = [data.sft, data.label_prompts, *data.scored.values()]
    for rows in others:
        for row in rows:
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


class _Others:
    """Reads what is no pair, and keeps what is wrong with it.

    Attributes:
        unusable: rows without content that were left out, by the place in the sweep file.
    """

    def __init__(self, drop: bool) -> None:
        self._drop = drop
        self.problems: list[Problem] = []
        self.unusable: Counter[str] = Counter()

    def texts(self, source: TextData | None) -> Spool[Text]:
        """Texts to imitate."""
        spool = _text_spool()
        if source is not None:
            self._fill(spool, source, partial(_read_text, source), place="sft.data")
        return spool

    def prompts(self, label: LabelConfig | None, *, seed: int) -> Spool[Prompt]:
        """Distinct prompts in the order of the rows; of more than `max_prompts` those that a seeded hash puts first."""
        found, kept = _prompt_spool(), _prompt_spool()
        if label is None:
            return kept
        source: PromptData = label.prompts
        self._fill(found, source, lambda row: read_prompt(row, source.prompt), place="label.prompts")
        # Another order than that of the held-out prompts: or the first of both would be the same.
        order = f"{seed}:label"
        ranks = distinct_ranks(map(prompt_key, found), order)
        last, seen = highest_of(ranks, label.max_prompts or len(ranks)), set[int]()
        for prompt in found:
            rank = seeded_rank(order, prompt_key(prompt))
            if rank <= last and rank not in seen:
                seen.add(rank)
                kept.append(prompt)
        return kept

    def scored(self, config: SweepConfig) -> dict[str, Spool[Scored]]:
        """Texts with numbers for each reward model that is trained by regression."""
        scored: dict[str, Spool[Scored]] = {}
        for objective in config.objectives:
            reward = objective.reward
            if not isinstance(reward, TrainedReward) or reward.loss != "regression" or reward.data is None:
                continue
            spool = scored[objective.name] = _scored_spool()
            place = f"objectives.{objective.name}.reward.data"
            self._fill(spool, reward.data, partial(_read_scored, reward.data), place)
        return scored

    def _fill(self, spool: Spool[T], source: SourceConfig, read: Callable[[Row], T], place: str) -> None:
        """Every row of a source."""
        problems = Problems()
        try:
            for item in read_rows(source):
                if isinstance(item, Problem):
                    problems.add([item])
                    continue
                try:
                    spool.append(read(item))
                except InputError as error:
                    if self._drop and is_unusable(error.problems):
                        self.unusable[place] += 1
                    else:
                        problems.add(error.problems)
        except InputError as error:
            problems.add(error.problems)
        found = problems.all(source.path)
        self.problems += found or ([] if spool else [_no_rows(place, source.path, self.unusable[place])])


def _read_text(source: TextData, row: Row) -> Text:
    prompt, (response,) = read_texts(row, source.prompt, source.response)
    return prompt, response


def _read_scored(source: ScoredData, row: Row) -> Scored:
    (prompt, (response,)), score = collect(
        lambda: read_texts(row, source.prompt, source.response), lambda: _number(row, source.score)
    )
    return prompt, response, score


def _number(row: Row, column: str) -> float:
    number = rating(lookup(row, column), row, column)
    if number is None:
        raise InputError(type_problem(row, column, "a missing number", "a number"))
    return number


def _no_rows(place: str, path: str, num_unusable: int) -> Problem:
    return Problem(
        code="MS-224",
        what=f"{place} has no rows",
        where=path,
        got=f"{num_unusable} rows, all without content" if num_unusable else "0 rows",
        wanted="at least one row",
        remedy="give it data, or leave it out",
    )


def _check_enough(data: LoadedData) -> Iterator[Problem]:
    for name, loaded in data.objectives.items():
        if not loaded.pairs:
            yield Problem(
                code="MS-221",
                what=f"objective {name!r} has no pairs left",
                where=f"objectives ({name}).pairs",
                got=", ".join(f"{count} {kind}" for kind, count in loaded.counts.as_dict().items() if count),
                wanted="at least one pair",
                remedy="lower min_gap, or give it data",
            )
    distinct = set(islice(_distinct(prompt_key(prompt) for prompt in data.prompts), 2))
    if len(distinct) == 1:
        yield Problem(
            code="MS-222",
            what="all rows have the same prompt, so none can be held out",
            where="objectives",
            got="1 prompt",
            wanted="at least two prompts",
            remedy="give more prompts",
        )


def _distinct(keys: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for key in keys:
        if key not in seen:
            seen.add(key)
            yield key


def _text_spool() -> Spool[Text]:
    schema = pyarrow.schema([("prompt", pyarrow.string()), ("response", pyarrow.string())])

    def decode(prompt: str, response: str) -> Text:
        return prompt_from_json(prompt), response

    return Spool(schema, lambda text: (json.dumps(text[0]), text[1]), decode)


def _prompt_spool() -> Spool[Prompt]:
    return Spool(pyarrow.schema([("prompt", pyarrow.string())]), lambda prompt: (json.dumps(prompt),), prompt_from_json)


def _scored_spool() -> Spool[Scored]:
    schema = pyarrow.schema(
        [("prompt", pyarrow.string()), ("response", pyarrow.string()), ("score", pyarrow.float64())]
    )

    def decode(prompt: str, response: str, score: float) -> Scored:
        return prompt_from_json(prompt), response, score

    return Spool(schema, lambda row: (json.dumps(row[0]), row[1], row[2]), decode)
