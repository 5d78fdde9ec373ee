"""Reading what the prepare stage and the annotation wrote, joined by pair_id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from modpo.errors import InternalError, Problem

Tokens = tuple[int, ...]

BATCH_ROWS = 10_000


@dataclass(frozen=True)
class TokenisedPair:
    """One prepared pair: ids as the model sees them, texts as reward functions see them."""

    pair_id: str
    objective: str
    prompt: Any
    chosen: str
    rejected: str
    prompt_ids: Tokens
    chosen_ids: Tokens
    rejected_ids: Tokens
    split: str


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt that no trial trained on."""

    prompt: Any
    prompt_ids: Tokens


@dataclass(frozen=True)
class LabelPrompt:
    """A prompt for which the label stage makes pairs."""

    prompt: Any
    prompt_ids: Tokens
    split: str


@dataclass(frozen=True)
class ResponseText:
    """Prompt and response tokens of one text."""

    prompt_ids: Tokens
    response_ids: Tokens


def read_pairs(prepared: Path, *, split: str | None = None, objective: str | None = None) -> list[TokenisedPair]:
    """Prepared pairs in their stored order, of one split and objective where given."""
    wanted = {"split": split, "objective": objective}
    filters = [(column, "==", value) for column, value in wanted.items() if value is not None]
    names = [field.name for field in fields(TokenisedPair)]
    table = pyarrow.parquet.read_table(prepared / "pairs.parquet", columns=names, filters=filters or None)
    return [pair for batch in table.to_batches(max_chunksize=BATCH_ROWS) for pair in _pairs_of(batch)]


def _pairs_of(batch: pyarrow.RecordBatch) -> Iterator[TokenisedPair]:
    columns = [column.to_pylist() for column in batch.columns]
    for pair_id, objective, prompt, chosen, rejected, *tokens, split in zip(*columns, strict=True):
        prompt_ids, chosen_ids, rejected_ids = map(tuple, tokens)
        yield TokenisedPair(
            pair_id, objective, prompt_value(prompt), chosen, rejected, prompt_ids, chosen_ids, rejected_ids, split
        )


def read_label_prompts(prepared: Path) -> list[LabelPrompt]:
    """The prompts for which pairs are made, in their stored order."""
    rows = pyarrow.parquet.read_table(prepared / "label_prompts.parquet").to_pylist()
    return [LabelPrompt(prompt_value(row["prompt"]), tuple(row["prompt_ids"]), row["split"]) for row in rows]


def read_held_out(prepared: Path, *, limit: int) -> list[HeldOutPrompt]:
    rows = pyarrow.parquet.read_table(prepared / "prompts.parquet").slice(0, limit).to_pylist()
    return [HeldOutPrompt(prompt_value(row["prompt"]), tuple(row["prompt_ids"])) for row in rows]


def read_sft(prepared: Path) -> list[ResponseText]:
    rows = pyarrow.parquet.read_table(prepared / "sft.parquet").to_pylist()
    return [ResponseText(tuple(row["prompt_ids"]), tuple(row["response_ids"])) for row in rows]


def read_columns(artefact: Path, pair_ids: list[str], columns: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Columns of an annotation table in the order of `pair_ids`, float64.

    Raises:
        InternalError: the table lacks a pair.
    """
    table = pyarrow.parquet.read_table(artefact / "table.parquet", columns=["pair_id", *columns])
    index = {pair_id: row for row, pair_id in enumerate(table["pair_id"].to_pylist())}
    check_coverage(artefact.name, wanted=pair_ids, present=set(index))
    order = np.array([index[pair_id] for pair_id in pair_ids], dtype=np.int64)
    return {name: table[name].to_numpy()[order].astype(np.float64) for name in columns}


def prompt_value(stored: str) -> Any:
    """Text, or chat messages as reward functions expect them."""
    value = json.loads(stored)
    return value if isinstance(value, str) else [{"role": role, "content": content} for role, content in value]


def stored_prompt(value: Any) -> str:
    """What `prompt_value` reads."""
    pairs = value if isinstance(value, str) else [[message["role"], message["content"]] for message in value]
    return json.dumps(pairs, ensure_ascii=False)


def check_coverage(kind: str, *, wanted: list[str], present: set[str]) -> None:
    """Refuses a table that lacks rows.

    Raises:
        InternalError: naming the first missing ids.
    """
    missing = [identifier for identifier in wanted if identifier not in present]
    if missing:
        raise InternalError(
            Problem(
                code="MS-601",
                what=f"the {kind} table lacks {len(missing)} of {len(wanted)} rows",
                got=f"first missing: {', '.join(missing[:10])}",
                remedy="this is a fault of modpo: please report it with the run's log",
            )
        )
