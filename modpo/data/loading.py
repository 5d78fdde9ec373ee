"""All rows of a sweep, read and checked before any token is made; loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pyarrow

from modpo.config.rewards import TrainedReward
from modpo.config.sources import PromptData, ScoredData, SourceConfig, TextData
from modpo.config.tree import LabelConfig, SweepConfig
from modpo.data.counts import Problems
from modpo.data.pairs import LoadedPairs, PreferencePair, load_pairs
from modpo.data.sources import Row, lookup, read_rows
from modpo.data.spool import Spool
from modpo.data.texts import (
    UNUSABLE,
    Prompt,
    prompt_from_json,
    prompt_key,
    rating,
    read_prompt,
    read_response,
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
    """

    objectives: dict[str, LoadedPairs]
    sft: Spool[Text]
    label_prompts: Spool[Prompt] = field(default_factory=lambda: _prompt_spool())  # noqa: PLW0108 # defined below
    scored: Mapping[str, Spool[Scored]] = field(default_factory=dict)

    @property
    def pairs(self) -> Iterator[PreferencePair]:
        for loaded in self.objectives.values():
            yield from loaded.pairs

    @property
    def prompts(self) -> Iterator[Prompt]:
        """The prompt of every row, as often as it is there."""
        yield from (pair.prompt for pair in self.pairs)
        yield from self.label_prompts
        yield from (prompt for texts in self.scored.values() for prompt, _, _ in texts)


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
    problems = [problem for loaded in objectives.values() for problem in loaded.problems]
    sft, found = _load_sft(config.sft.data if config.sft else None, drop=drop)
    prompts, more = _load_prompts(config.label, seed=config.seed, drop=drop)
    scored, rest = _load_scored(config, drop=drop)
    data = LoadedData(objectives, sft, prompts, scored)
    problems += [*found, *more, *rest]
    problems += _check_enough(data) if not problems else []
    return data, problems


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


def held_out_prompts(prompts: Iterable[str], *, fraction: float, seed: int) -> set[str]:
    """A seeded share of the distinct prompts, at least one, chosen by hash: the order of the rows does not matter."""
    ranked = sorted(set(prompts), key=lambda key: _rank(seed, key))
    return set(ranked[: max(1, math.ceil(fraction * len(ranked)))])


def _rank(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _load_sft(source: TextData | None, *, drop: bool) -> tuple[Spool[Text], list[Problem]]:
    if source is None:
        return _text_spool(), []
    return _fill(
        _text_spool(),
        source,
        lambda row: (read_prompt(row, source.prompt), read_response(row, source.response)),
        place="sft.data",
        drop=drop,
    )


def _load_prompts(label: LabelConfig | None, *, seed: int, drop: bool) -> tuple[Spool[Prompt], list[Problem]]:
    """Distinct prompts; of more than `max_prompts` those that a seeded hash puts first, in the order of the rows."""
    if label is None:
        return _prompt_spool(), []
    source: PromptData = label.prompts
    found, problems = _fill(
        _prompt_spool(), source, lambda row: read_prompt(row, source.prompt), place="label.prompts", drop=drop
    )
    distinct = list({prompt_key(prompt): prompt for prompt in found}.items())
    if label.max_prompts is not None:
        # Another order than that of the held-out prompts: or the first of both would be the same.
        ranked = sorted((key for key, _ in distinct), key=lambda key: _rank(seed, f"label:{key}"))
        kept = set(ranked[: label.max_prompts])
        distinct = [(key, prompt) for key, prompt in distinct if key in kept]
    prompts = _prompt_spool()
    for _, prompt in distinct:
        prompts.append(prompt)
    return prompts, problems


def _load_scored(config: SweepConfig, *, drop: bool) -> tuple[dict[str, Spool[Scored]], list[Problem]]:
    """Texts with numbers for each reward model that is trained by regression."""
    scored: dict[str, Spool[Scored]] = {}
    problems: list[Problem] = []
    for objective in config.objectives:
        reward = objective.reward
        if not isinstance(reward, TrainedReward) or reward.loss != "regression" or reward.data is None:
            continue
        place = f"objectives.{objective.name}.reward.data"
        scored[objective.name], found = _fill(
            _scored_spool(), reward.data, partial(_read_scored, reward.data), place, drop=drop
        )
        problems += found
    return scored, problems


def _read_scored(source: ScoredData, row: Row) -> Scored:
    number = rating(lookup(row, source.score), row, source.score)
    if number is None:
        raise InputError(type_problem(row, source.score, "a missing number", "a number"))
    return read_prompt(row, source.prompt), read_response(row, source.response), number


def _fill(
    spool: Spool[T], source: SourceConfig, read: Callable[[Row], T], place: str, *, drop: bool
) -> tuple[Spool[T], list[Problem]]:
    """Every row of a source, and what is wrong with the rest."""
    problems = Problems()
    try:
        for item in read_rows(source):
            if isinstance(item, Problem):
                problems.add([item])
                continue
            try:
                spool.append(read(item))
            except InputError as error:
                if not (drop and {problem.code for problem in error.problems} <= UNUSABLE):
                    problems.add(error.problems)
    except InputError as error:
        problems.add(error.problems)
    if not spool and not problems.all(""):
        problems.add(
            [
                Problem(
                    code="MS-224",
                    what=f"{place} has no rows",
                    where=source.path,
                    remedy="give it data, or leave it out",
                )
            ]
        )
    return spool, problems.all(source.path)


def _check_enough(data: LoadedData) -> Iterator[Problem]:
    for name, loaded in data.objectives.items():
        if not loaded.pairs:
            yield Problem(
                code="MS-221",
                what=f"objective {name!r} has no pairs left",
                where="objectives",
                got=", ".join(f"{count} {kind}" for kind, count in loaded.counts.as_dict().items() if count),
                remedy="lower min_gap, or give it data",
            )
    distinct = set(islice(_distinct(prompt_key(prompt) for prompt in data.prompts), 2))
    if len(distinct) == 1:
        yield Problem(
            code="MS-222",
            what="all rows have the same prompt, so none can be held out",
            where="objectives",
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
