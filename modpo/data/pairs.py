"""Comparisons to preference pairs of one objective: counted, made unique, written to a temporary file as they come."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow

from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import ColumnsReward
from modpo.config.sources import NamedColumns, RankedColumns, ScoredColumns
from modpo.data.counts import PairCounts, Problems
from modpo.data.forms import Comparison, Form, FormReader, Numbers, ScoredResponse, compare
from modpo.data.named import named_dataset
from modpo.data.rows import Row
from modpo.data.sources import read_rows
from modpo.data.spool import Spool
from modpo.data.texts import Prompt, is_unusable, prompt_from_json, prompt_key
from modpo.errors import InputError, Problem

# Rows that lack a reward, in the one message about it.
LISTED_PLACES = 5

_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One comparison for one objective.

    Attributes:
        pair_id: digest of objective, texts and occurrence; equal rows are separate draws and keep separate ids.
        where: file and row it came from.
        column_rewards: (objective, reward of chosen, reward of rejected) for rewards in columns, higher is better.
    """

    pair_id: str
    objective: str
    prompt: Prompt
    chosen: str
    rejected: str
    where: str
    column_rewards: tuple[tuple[str, float, float], ...] = ()


@dataclass
class LoadedPairs:
    """All pairs of one objective, what was counted, and every problem found on the way.

    Attributes:
        column_rewards: objectives whose rewards stand beside the responses of these pairs.
    """

    pairs: Spool[PreferencePair]
    counts: PairCounts = field(default_factory=PairCounts)
    problems: list[Problem] = field(default_factory=list)
    column_rewards: frozenset[str] = frozenset()


def load_pairs(
    objective: ObjectiveConfig,
    *,
    seed: int,
    drop_unusable: bool = False,
    objectives: Sequence[ObjectiveConfig] = (),
) -> LoadedPairs:
    """Reads an objective's source to the end; problems are collected, not raised, so that all can be shown.

    Args:
        seed: draws the pairs kept where `max_pairs_per_prompt` limits them.
        drop_unusable: leave out and count rows with an empty text or two equal responses.
        objectives: all of the sweep, whose rewards in columns may stand in these rows.
    """
    return _PairLoader(objective, seed=seed, drop_unusable=drop_unusable, objectives=objectives).load()


class _PairLoader:
    """One reading of one source."""

    def __init__(
        self, objective: ObjectiveConfig, *, seed: int, drop_unusable: bool, objectives: Sequence[ObjectiveConfig]
    ) -> None:
        assert objective.pairs is not None, f"objective {objective.name} has no pairs"
        self._objective, self._source, self._seed, self._drop = objective, objective.pairs, seed, drop_unusable
        scored = [other for other in objectives if isinstance(other.reward, ColumnsReward)]
        self._columns = [other.name for other in scored]
        self._place = next(
            (f"objectives.{n}." for n, other in enumerate(objectives) if other.name == objective.name), ""
        )
        self._rewards = [(o.reward, o.sign) for o in scored if isinstance(o.reward, ColumnsReward)]
        self._known = Counter[str]()
        self._lacking: dict[str, list[str]] = defaultdict(list)
        self._occurrences: dict[int, int] = {}
        self._problems = Problems()
        self._loaded = LoadedPairs(_pair_spool(objective.name, tuple(self._columns)))

    def load(self) -> LoadedPairs:
        loaded = self._loaded
        try:
            self._read()
        except InputError as error:
            self._problems.add(error.problems)
        if loaded.counts.rows == 0 and not self._problems.all(""):
            self._problems.add(
                [
                    Problem(
                        code="MS-201",
                        what="the source has no rows",
                        where=self._source.path,
                        got="0 rows",
                        wanted="at least one row",
                        remedy="give it data",
                    )
                ]
            )
        loaded.counts.pairs = len(loaded.pairs)
        self._judge_columns()
        loaded.problems = self._problems.all(self._source.path)
        return loaded

    def _read(self) -> None:
        form, rows_of = self._preset()
        reader, responses = FormReader(form, self._objective.sign, self._rewards), _response_spool()
        for item in read_rows(self._source):
            self._loaded.counts.rows += 1
            if isinstance(item, Problem):
                self._problems.add([item])
                continue
            try:
                for row in rows_of(item):
                    self._take_row(list(reader.read(row)), reader, responses)
            except InputError as error:
                self._reject(_placed(error.problems, item))
        if isinstance(form, ScoredColumns):
            self._take_scored(responses, form)

    def _preset(self) -> tuple[Form, Callable[[Row], Iterable[Row]]]:
        """The form to read, and the rows that one row of the source stands for.

        Raises:
            InputError: no named data set, or none of its dimensions, is meant by the sweep file.
        """
        form = self._source.form
        if not isinstance(form, NamedColumns):
            return form, lambda row: (row,)
        try:
            named, dimension = named_dataset(form.dataset), form.dimension
            preset = named.form(dimension, form)
        except InputError as error:
            raise InputError(replace(p, where=self._place + p.where) for p in error.problems) from error
        return preset, lambda row: (Row(row.where, values) for values in named.transform(row.values, dimension))

    def _take_row(
        self, found: Sequence[Comparison | ScoredResponse], reader: FormReader, responses: Spool[ScoredResponse]
    ) -> None:
        comparisons: list[Comparison] = []
        for item in found:
            if isinstance(item, ScoredResponse):
                responses.append(item)
            else:
                comparisons.append(item)
        if not isinstance(reader.form, RankedColumns):
            for comparison in comparisons:
                self._take(comparison)
        elif comparisons:
            self._take_some(comparisons, reader.form.max_pairs_per_prompt, prompt_key(comparisons[0].prompt))
        else:
            self._loaded.counts.alone += 1

    def _reject(self, problems: Sequence[Problem]) -> None:
        """A row that cannot be used: a problem, or counted where rows without content may be dropped."""
        if self._drop and is_unusable(problems):
            self._loaded.counts.unusable += 1
        else:
            self._problems.add(problems)

    def _take_some(self, comparisons: Sequence[Comparison], limit: int | None, key: str) -> None:
        """Comparisons of one prompt, at most so many of those with a preference."""
        decided = [item for item in comparisons if item.verdict in ("first", "second")]
        if limit is not None and len(decided) > limit:
            decided = random.Random(f"{self._seed}:{self._objective.name}:{key}").sample(decided, limit)
        for item in comparisons:
            if item.verdict in ("tie", "missing"):
                self._take(item)
        for item in decided:
            self._take(item)

    def _take_scored(self, responses: Spool[ScoredResponse], form: ScoredColumns) -> None:
        """Pairs of scored responses, prompt by prompt in an order that does not follow the rows'."""
        by_prompt: dict[int, list[int]] = defaultdict(list)
        for number, item in enumerate(responses):
            if item.score is None:
                self._loaded.counts.missing += 1
            else:
                by_prompt[_hash(prompt_key(item.prompt))].append(number)
        for key in sorted(by_prompt):
            group = [responses[number] for number in by_prompt[key]]
            self._loaded.counts.alone += len(group) == 1
            compared = [
                _comparison(first, second, min_gap=form.min_gap) for first, second in itertools.combinations(group, 2)
            ]
            self._take_some(compared, form.max_pairs_per_prompt, prompt_key(group[0].prompt))

    def _take(self, item: Comparison) -> None:
        counts = self._loaded.counts
        if item.verdict == "tie":
            counts.ties += 1
            return
        if item.verdict == "missing":
            counts.missing += 1
            return
        texts, numbers = (item.first, item.second), (item.first_numbers, item.second_numbers)
        chosen, rejected = texts if item.verdict == "first" else texts[::-1]
        ours, theirs = numbers if item.verdict == "first" else numbers[::-1]
        key, opposite = _keys(self._objective.name, item.prompt, chosen, rejected)
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        counts.duplicates += occurrence > 0
        counts.conflicting += opposite in self._occurrences
        counts.implicit_prompts += item.implicit
        rewards = tuple((name, a, b) for name, a, b in zip(self._columns, ours, theirs, strict=True))
        self._note_rewards(rewards, item.where)
        self._loaded.pairs.append(
            PreferencePair(
                pair_id=f"{key:016x}-{occurrence}",
                objective=self._objective.name,
                prompt=item.prompt,
                chosen=chosen,
                rejected=rejected,
                where=item.where,
                column_rewards=rewards,
            )
        )

    def _note_rewards(self, rewards: Sequence[tuple[str, float, float]], where: str) -> None:
        for name, ours, theirs in rewards:
            if math.isfinite(ours) and math.isfinite(theirs):
                self._known[name] += 1
            elif len(self._lacking[name]) < LISTED_PLACES and where not in self._lacking[name]:
                self._lacking[name].append(where)

    def _judge_columns(self) -> None:
        """A reward in columns is there for all pairs, or for none."""
        count = len(self._loaded.pairs)
        self._loaded.column_rewards = frozenset(name for name in self._columns if count and self._known[name] == count)
        for name, reward in zip(self._columns, (reward for reward, _ in self._rewards), strict=True):
            if 0 < self._known[name] < count:
                self._problems.add([self._lacks_rewards(name, reward, count)])

    def _lacks_rewards(self, name: str, reward: ColumnsReward, count: int) -> Problem:
        first, *others = self._lacking[name]
        columns = ", ".join(filter(None, (reward.score, reward.chosen, reward.rejected)))
        lacking = count - self._known[name]
        return Problem(
            code="MS-241",
            what=f"the reward of {name!r} stands in some rows and not in others",
            where=f"{first} ({columns})",
            got=f"no finite number for {lacking} of {count} pairs"
            + (f", also at {', '.join(others)}" if others else "")
            + (", ..." if lacking > LISTED_PLACES else ""),
            wanted="a number beside both responses of every pair",
            remedy="fill in the columns, or remove the rows that lack them",
        )


def _comparison(first: ScoredResponse, second: ScoredResponse, *, min_gap: float) -> Comparison:
    verdict = compare(first.score, second.score, min_gap=min_gap, same=first.response == second.response)
    lacking = [item for item in (first, second) if not all(map(math.isfinite, item.numbers))]
    # A problem of the pair is one of the response that lacks a number.
    where = (lacking[0] if len(lacking) == 1 else second if verdict == "second" else first).where
    return Comparison(first.prompt, first.response, second.response, verdict, where, first.numbers, second.numbers)


def _placed(problems: Sequence[Problem], row: Row) -> list[Problem]:
    """Problems of a row, each with the row's place: a named set's transform knows only the column."""
    return [
        problem if problem.where.startswith(row.where) else replace(problem, where=f"{row.where} ({problem.where})")
        for problem in problems
    ]


def _keys(objective: str, prompt: Prompt, chosen: str, rejected: str) -> tuple[int, int]:
    """Of a pair, and of the pair with the opposite label."""
    head, first, second = f"[{_json(objective)}, {_json(prompt)}, ", _json(chosen), _json(rejected)
    return _hash(f"{head}{first}, {second}]"), _hash(f"{head}{second}, {first}]")


def _hash(text: str) -> int:
    """Eight bytes of SHA-256: among a million texts, two are mistaken for one with a chance below 1e-7."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _pair_spool(objective: str, columns: tuple[str, ...]) -> Spool[PreferencePair]:
    names = ("pair_id", "prompt", "chosen", "rejected", "where")
    schema = pyarrow.schema(
        [*((name, pyarrow.string()) for name in names), ("numbers", pyarrow.list_(pyarrow.float64()))]
    )

    def encode(pair: PreferencePair) -> tuple[object, ...]:
        numbers = [number for _, a, b in pair.column_rewards for number in (a, b)]
        return pair.pair_id, json.dumps(pair.prompt), pair.chosen, pair.rejected, pair.where, numbers

    def decode(
        pair_id: str, prompt: str, chosen: str, rejected: str, where: str, numbers: list[float]
    ) -> PreferencePair:
        rewards = zip(columns, numbers[::2], numbers[1::2], strict=True)
        return PreferencePair(pair_id, objective, prompt_from_json(prompt), chosen, rejected, where, tuple(rewards))

    return Spool(schema, encode, decode)


def _response_spool() -> Spool[ScoredResponse]:
    schema = pyarrow.schema(
        [
            ("prompt", pyarrow.string()),
            ("response", pyarrow.string()),
            ("score", pyarrow.float64()),
            ("where", pyarrow.string()),
            ("numbers", pyarrow.list_(pyarrow.float64())),
        ]
    )

    def encode(item: ScoredResponse) -> tuple[object, ...]:
        return json.dumps(item.prompt), item.response, item.score, item.where, list(item.numbers)

    def decode(prompt: str, response: str, score: float | None, where: str, numbers: list[float]) -> ScoredResponse:
        kept: Numbers = tuple(numbers)
        return ScoredResponse(prompt_from_json(prompt), response, score, where, kept)

    return Spool(schema, encode, decode)
