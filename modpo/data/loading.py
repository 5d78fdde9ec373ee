"""All rows of a sweep, read and checked before any token is made; loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modpo.config.tree import SftConfig, SweepConfig
from modpo.data.pairs import (
    UNUSABLE,
    LoadedPairs,
    PreferencePair,
    Prompt,
    load_pairs,
    prompt_key,
    read_prompt,
    read_response,
)
from modpo.data.sources import read_rows
from modpo.errors import InputError, Problem


@dataclass(frozen=True)
class LoadedData:
    """All text of a sweep, read and checked, before any token is made."""

    objectives: dict[str, LoadedPairs]
    sft: list[tuple[Prompt, str]]

    @property
    def pairs(self) -> Iterator[PreferencePair]:
        for loaded in self.objectives.values():
            yield from loaded.pairs


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
        o.name: load_pairs(o, seed=config.seed, drop_unusable=drop) for o in config.objectives if o.pairs is not None
    }
    problems = [problem for loaded in objectives.values() for problem in loaded.problems]
    sft: list[tuple[Prompt, str]] = []
    if config.sft is not None:
        sft, found = _load_sft(config.sft, drop_unusable=drop)
        problems += found
    problems += _check_enough(objectives) if not problems else []
    return LoadedData(objectives, sft), problems


def data_digest(data: LoadedData) -> str:
    """Changes with any text, order or occurrence of any pair."""
    digest = hashlib.sha256()
    for pair in data.pairs:
        digest.update(pair.pair_id.encode())
    for prompt, response in data.sft:
        digest.update(json.dumps([prompt, response]).encode())
    return digest.hexdigest()[:16]


def held_out_prompts(prompts: Iterable[str], *, fraction: float, seed: int) -> set[str]:
    """A seeded share of the distinct prompts, at least one, chosen by hash: the order of the rows does not matter."""
    ranked = sorted(set(prompts), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())
    return set(ranked[: max(1, math.ceil(fraction * len(ranked)))])


def _load_sft(sft: SftConfig, *, drop_unusable: bool) -> tuple[list[tuple[Prompt, str]], list[Problem]]:
    texts: list[tuple[Prompt, str]] = []
    problems: list[Problem] = []
    if sft.data is None:
        return texts, problems
    try:
        for item in read_rows(sft.data):
            if isinstance(item, Problem):
                problems.append(item)
                continue
            try:
                texts.append((read_prompt(item, sft.data.prompt), read_response(item, sft.data.response)))
            except InputError as error:
                if not (drop_unusable and {problem.code for problem in error.problems} <= UNUSABLE):
                    problems += error.problems
    except InputError as error:
        problems += error.problems
    if not texts and not problems:
        problems.append(
            Problem(
                code="MS-224", what="sft.data has no rows", where=sft.data.path, remedy="give it data, or leave it out"
            )
        )
    return texts, problems


def _check_enough(objectives: dict[str, LoadedPairs]) -> Iterator[Problem]:
    for name, loaded in objectives.items():
        if not loaded.pairs:
            yield Problem(
                code="MS-221",
                what=f"objective {name!r} has no pairs left",
                where="objectives",
                got=", ".join(f"{count} {kind}" for kind, count in loaded.counts.as_dict().items()),
                remedy="lower scored.min_gap, or give it data",
            )
    prompts = {prompt_key(pair.prompt) for loaded in objectives.values() for pair in loaded.pairs}
    if prompts and len(prompts) < 2:
        yield Problem(
            code="MS-222",
            what="all pairs have the same prompt, so none can be held out",
            where="objectives",
            wanted="at least two prompts",
            remedy="give more prompts",
        )
