"""Reference log-probabilities and margin rewards, computed once for the sweep: neither depends on the weights.

    reference-<digest>/table.parquet   pair_id, reference_chosen_logps, reference_rejected_logps
                       pairs.npy, …    the same with the pairs' tokens, as trials map it: see `data.pair_table`
    rewards-<digest>/table.parquet     pair_id, <objective>_chosen, <objective>_rejected for every objective
                     rewards_*.npy     the same, as trials map it
                     units.json        size of one unit of each reward, declared or fitted: what the loss uses
                     measured_units.json  the same of what scores new responses: what evaluation uses
                     meaning.json      signs, sizes and conflicts of the rewards on these pairs, with warnings

The two differ for numbers that stand in columns of the data and are normalised: new responses are scored by a vertex,
whose reward is of another size than the numbers.

Each distinct completion is scored once, in shards of about as many tokens over all workers, and in parts that stay when
a worker is lost. All values are float64, rewards in raw units,
higher is better. A reward that stands in columns of the data is not known on pairs of other sources: NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from modpo.artifacts import digest_of, read_json, write_json, writing
from modpo.config.rewards import ColumnsReward
from modpo.config.spec import Work
from modpo.core.packing import balanced_shares
from modpo.data.pair_table import write_margin_rewards, write_pair_table
from modpo.data.parts import part_files
from modpo.data.prepared import TokenisedPair, check_coverage, read_columns, read_pairs
from modpo.models import load_model
from modpo.rewards.base import Completion, CompletionKey
from modpo.rewards.meaning import JudgedPairs, meaning_of
from modpo.rewards.scorers import build_scorer
from modpo.rewards.units import objective_unit
from modpo.scoring import ResponseModel, completion_logps, grown, row_budget
from modpo.watch import kept

# What a lost worker loses at most: seconds on a GPU with a model of some billions of weights.
PART_COMPLETIONS = 4096
LOGPS_COLUMNS = ("reference_chosen_logps", "reference_rejected_logps")
BY_VERTEX = "~vertex"
"""After the name of an objective, which cannot have the sign: what its vertex says, where its reward is in columns."""

Columns = dict[str, NDArray[np.float64]]
Scoring = Callable[[Sequence[Completion]], Columns]
"""Columns of some completions: the reference's log-probabilities, or the rewards of every objective."""


def reward_columns(objective: str) -> tuple[str, str]:
    """Names of an objective's columns in the rewards table."""
    return f"{objective}_chosen", f"{objective}_rejected"


def annotate_shard(work: Work, *, rank: int, world_size: int, device: torch.device) -> int:
    """Scores this rank's share of a shard into `work.output`, part by part; returns how many completions it scored.

    What an earlier attempt has left there is not scored again, whatever shards that attempt had.
    """
    index, count = work.shard
    pairs, parts = read_pairs(Path(work.inputs.training_pairs)), Path(work.output)
    share = shares(distinct_completions(pairs), work, count * world_size)[index * world_size + rank]
    present = _scored_keys(parts)
    missing = [completion for completion in share if _key(completion) not in present]
    if not missing:
        return 0
    score = _scoring(work, pairs, device)
    for start in range(0, len(missing), PART_COMPLETIONS):
        part = missing[start : start + PART_COMPLETIONS]
        rows = {"key": [_key(c) for c in part], **score(part)}
        with writing(parts / f"part-{digest_of(rows['key'])}", {"kind": work.kind, "shard": [index, count]}) as aside:
            pyarrow.parquet.write_table(pyarrow.table(rows), aside / "part.parquet")
        kept()
    return len(missing)


def shares(completions: Sequence[Completion], work: Work, num_shares: int) -> list[list[Completion]]:
    """Who scores what: about as many tokens for each, and the responses to one prompt together.

    The same on every rank, which finds its own share alone.
    """
    prompts, responses = [c.prompt_ids for c in completions], [c.response_ids for c in completions]
    trees = grown(prompts, responses, row_budget(prompts, responses, work.config.evaluation.batch_size))
    return [
        [completions[number] for tree in sorted(share) for numbers in trees[tree][1] for number in numbers]
        for share in balanced_shares([tree.num_tokens for tree, _ in trees], num_shares)
    ]


def _scored_keys(parts: Path) -> set[str]:
    """Completions whose values stand in parts that are whole."""
    tables = (pyarrow.parquet.read_table(path, columns=["key"]) for path in part_files(parts))
    return {key for table in tables for key in table["key"].to_pylist()}


def _scoring(work: Work, pairs: Sequence[TokenisedPair], device: torch.device) -> Scoring:
    """What gives the columns of some completions; the base model is loaded once for all parts."""
    base = load_model(work.config.model, path=work.inputs.start_model).to(device)
    if work.kind == "reference":
        model = ResponseModel(base, longest=work.config.longest_sequence)
        return lambda completions: {"reference": _reference_logps(work, model, completions)}
    stored = _stored_logps(work, pairs)
    scorers = {
        objective.name + BY_VERTEX * in_columns: build_scorer(work.config, objective, work.inputs, base=base)
        for objective in work.config.objectives
        if not (in_columns := isinstance(objective.reward, ColumnsReward)) or objective.normalize != "none"
    }

    def rewards(completions: Sequence[Completion]) -> Columns:
        logps = np.array([stored[completion.key] for completion in completions])
        return {name: scorer.score(completions, reference_logps=logps) for name, scorer in scorers.items()}

    return rewards


def merge_shards(work: Work, *, output: Path, description: Mapping[str, Any]) -> int:
    """Joins all parts of an annotation to one row a pair; returns the number of pairs.

    Raises:
        InternalError: a completion was not scored.
    """
    pairs = read_pairs(Path(work.inputs.training_pairs))
    table = pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in part_files(Path(work.output)))
    position = {key: row for row, key in enumerate(table["key"].to_pylist())}
    wanted = [_key(completion) for pair in pairs for completion in pair_completions(pair)]
    check_coverage(work.kind, wanted=wanted, present=set(position))
    order = np.array([position[key] for key in wanted]).reshape(-1, 2)
    columns: dict[str, Any] = {"pair_id": [pair.pair_id for pair in pairs]}
    for name in table.column_names[1:]:
        values = table[name].to_numpy()
        names = LOGPS_COLUMNS if name == "reference" else reward_columns(name)
        columns |= {column: values[order[:, side]] for side, column in enumerate(names)}
    vertices = {name: columns.pop(name) for name in list(columns) if BY_VERTEX in name}
    if work.kind == "rewards":
        columns |= _column_rewards(work)
    with writing(output, description) as aside:
        pyarrow.parquet.write_table(pyarrow.table(columns), aside / "table.parquet")
        if work.kind == "reference":
            write_pair_table(aside, Path(work.inputs.training_pairs), _both_sides(columns, LOGPS_COLUMNS))
        else:
            for name in work.config.objective_names:
                write_margin_rewards(aside, name, _both_sides(columns, reward_columns(name)))
            units = reward_units(work, columns)
            write_json(aside / "units.json", units)
            write_json(aside / "measured_units.json", units | _vertex_units(work, vertices))
            write_json(aside / "meaning.json", meaning_of(work.config, _judged(work, pairs, columns), units))
    return len(pairs)


def _both_sides(columns: Mapping[str, Any], names: tuple[str, str]) -> NDArray[np.float64]:
    """(P, 2) values of chosen and rejected."""
    return np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=-1)


def reward_units(work: Work, columns: Mapping[str, Any]) -> dict[str, float]:
    """s_j of every objective: declared, fitted where labels were drawn, or fitted on the gaps of the annotated pairs.

    Raises:
        InputError: a reward that is to be normalised is the same on both sides of every pair.
    """
    drawn = Path(work.inputs.pairs) / "units.json"
    units: dict[str, float] = read_json(drawn) if work.inputs.pairs else {}
    for objective in work.config.objectives:
        if objective.name not in units:
            chosen, rejected = (columns[name] for name in reward_columns(objective.name))
            units[objective.name] = objective_unit(objective, chosen - rejected)
    return units


def _vertex_units(work: Work, columns: Mapping[str, Any]) -> dict[str, float]:
    """Units fitted on what vertices say of the annotated pairs, for objectives whose own numbers are in columns."""
    units = {}
    for objective in work.config.objectives:
        chosen, rejected = reward_columns(objective.name + BY_VERTEX)
        if chosen in columns:
            units[objective.name] = objective_unit(objective, columns[chosen] - columns[rejected])
    return units


def _judged(work: Work, pairs: Sequence[TokenisedPair], columns: Mapping[str, Any]) -> JudgedPairs:
    gaps = {}
    for name in work.config.objective_names:
        chosen, rejected = (columns[column] for column in reward_columns(name))
        gaps[name] = np.asarray(chosen - rejected)
    return JudgedPairs(
        objectives=[pair.objective for pair in pairs],
        prompts=[repr(pair.prompt) for pair in pairs],
        held_out=np.array([pair.split == "eval" for pair in pairs]),
        gaps=gaps,
    )


def _column_rewards(work: Work) -> dict[str, NDArray[np.float64]]:
    """Rewards that stand beside the responses in the data, as `prepare` kept them."""
    wanted = {
        f"column_{column}": column
        for objective in work.config.objectives
        if isinstance(objective.reward, ColumnsReward)
        for column in reward_columns(objective.name)
    }
    if not wanted:
        return {}
    table = pyarrow.parquet.read_table(Path(work.inputs.training_pairs) / "pairs.parquet", columns=list(wanted))
    return {column: table[name].to_numpy().astype(np.float64) for name, column in wanted.items()}


def pair_completions(pair: TokenisedPair) -> tuple[Completion, Completion]:
    """(chosen, rejected) of a pair."""
    return (
        Completion(pair.prompt, pair.chosen, pair.prompt_ids, pair.chosen_ids),
        Completion(pair.prompt, pair.rejected, pair.prompt_ids, pair.rejected_ids),
    )


def distinct_completions(pairs: Iterable[TokenisedPair]) -> list[Completion]:
    """Every completion once, in the order of first appearance."""
    return list({c.key: c for pair in pairs for c in pair_completions(pair)}.values())


def _reference_logps(work: Work, model: ResponseModel, completions: Sequence[Completion]) -> NDArray[np.float64]:
    return completion_logps(
        model,
        [c.prompt_ids for c in completions],
        [c.response_ids for c in completions],
        batch_size=work.config.evaluation.batch_size,
    )


def _stored_logps(work: Work, pairs: Sequence[TokenisedPair]) -> dict[CompletionKey, float]:
    """Reference log-probability of every completion, from the reference table: no model is asked twice."""
    stored = read_columns(Path(work.inputs.reference), [pair.pair_id for pair in pairs], LOGPS_COLUMNS)
    return {
        completion.key: float(stored[column][row])
        for row, pair in enumerate(pairs)
        for column, completion in zip(LOGPS_COLUMNS, pair_completions(pair), strict=True)
    }


def _key(completion: Completion) -> str:
    """A digest, so that neither a table nor an error message spells out a user's text."""
    return digest_of(completion.key)
