"""Reference log-probabilities and margin rewards, computed once for the sweep: neither depends on the weights.

    reference-<digest>/table.parquet   pair_id, reference_chosen_logps, reference_rejected_logps
    rewards-<digest>/table.parquet     pair_id, <objective>_chosen, <objective>_rejected for every objective

Each distinct completion is scored once, in shards over all workers. All values are float64, rewards in raw units,
higher is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from modpo.artifacts import check_coverage, digest_of, writing
from modpo.config.spec import Work
from modpo.data.prepared import TokenisedPair, read_columns, read_pairs
from modpo.data.tokenize import load_tokenizer
from modpo.models import completion_logps, load_model
from modpo.rewards.base import Completion
from modpo.rewards.scorers import build_scorer
from modpo.training.batches import LOGPS_COLUMNS, reward_columns

ANNOTATE_VERSION = 1


def annotate_shard(work: Work, *, rank: int, world_size: int, device: torch.device) -> int:
    """Scores this rank's part of a shard and writes it into `work.output`; returns the number of completions."""
    prepared = Path(work.inputs.prepared)
    index, count = work.shard
    pairs = read_pairs(prepared)
    completions = distinct_completions(pairs)[index * world_size + rank :: count * world_size]
    if work.kind == "reference":
        columns = {"reference": _reference_logps(work, completions, device)}
    else:
        columns = _rewards(work, completions, _stored_logps(work, pairs, completions), device)
    rows = {"key": [_key(c) for c in completions], **columns}
    folder = Path(work.output) / f"part-{index * world_size + rank:05d}"
    with writing(folder, {"kind": work.kind, "shard": [index, count], "rank": rank}) as aside:
        pyarrow.parquet.write_table(pyarrow.table(rows), aside / "part.parquet")
    return len(completions)


def merge_shards(work: Work, *, output: Path, description: Mapping[str, Any]) -> int:
    """Joins all parts of an annotation to one row a pair; returns the number of pairs.

    Raises:
        InternalError: a completion was not scored.
    """
    pairs = read_pairs(Path(work.inputs.prepared))
    table = pyarrow.concat_tables(
        pyarrow.parquet.read_table(path) for path in sorted(Path(work.output).glob("part-*/part.parquet"))
    )
    position = {key: row for row, key in enumerate(table["key"].to_pylist())}
    wanted = [_key(completion) for pair in pairs for completion in pair_completions(pair)]
    check_coverage(work.kind, wanted=wanted, present=set(position))
    order = np.array([position[key] for key in wanted]).reshape(-1, 2)
    columns: dict[str, Any] = {"pair_id": [pair.pair_id for pair in pairs]}
    for name in table.column_names[1:]:
        values = table[name].to_numpy()
        names = LOGPS_COLUMNS if name == "reference" else reward_columns(name)
        columns |= {column: values[order[:, side]] for side, column in enumerate(names)}
    with writing(output, description) as aside:
        pyarrow.parquet.write_table(pyarrow.table(columns), aside / "table.parquet")
    return len(pairs)


def pair_completions(pair: TokenisedPair) -> tuple[Completion, Completion]:
    """(chosen, rejected) of a pair."""
    return (
        Completion(pair.prompt, pair.chosen, pair.prompt_ids, pair.chosen_ids),
        Completion(pair.prompt, pair.rejected, pair.prompt_ids, pair.rejected_ids),
    )


def distinct_completions(pairs: Iterable[TokenisedPair]) -> list[Completion]:
    """Every completion once, in the order of first appearance."""
    return list({c.key: c for pair in pairs for c in pair_completions(pair)}.values())


def _reference_logps(work: Work, completions: Sequence[Completion], device: torch.device) -> NDArray[np.float64]:
    model = load_model(work.config.model, path=work.inputs.start_model).to(device)
    tokenizer = load_tokenizer(str(Path(work.inputs.prepared) / "tokenizer"))
    return completion_logps(
        model,
        [c.prompt_ids for c in completions],
        [c.response_ids for c in completions],
        batch_size=work.config.evaluation.batch_size,
        pad_token_id=tokenizer.pad_token_id,
    )


def _stored_logps(work: Work, pairs: Sequence[TokenisedPair], completions: Sequence[Completion]) -> NDArray[np.float64]:
    """Reference log-probabilities of completions from the reference table: no model is asked twice."""
    stored = read_columns(Path(work.inputs.reference), [pair.pair_id for pair in pairs], LOGPS_COLUMNS)
    by_key = {
        completion.key: stored[column][row]
        for row, pair in enumerate(pairs)
        for column, completion in zip(LOGPS_COLUMNS, pair_completions(pair), strict=True)
    }
    return np.array([by_key[completion.key] for completion in completions])


def _rewards(
    work: Work, completions: Sequence[Completion], reference_logps: NDArray[np.float64], device: torch.device
) -> dict[str, NDArray[np.float64]]:
    base = load_model(work.config.model, path=work.inputs.start_model).to(device)
    tokenizer = load_tokenizer(str(Path(work.inputs.prepared) / "tokenizer"))
    return {
        objective.name: build_scorer(
            work.config, objective, work.inputs, base=base, pad_token_id=tokenizer.pad_token_id
        ).score(completions, reference_logps=reference_logps)
        for objective in work.config.objectives
    }


def _key(completion: Completion) -> str:
    """A digest, so that neither a table nor an error message spells out a user's text."""
    return digest_of(completion.key)
