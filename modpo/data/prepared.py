"""Reading what the prepare stage and the annotation wrote, joined by pair_id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from modpo.artifacts import check_coverage

Tokens = tuple[int, ...]


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


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt that no trial trained on."""

    prompt: Any
    prompt_ids: Tokens


@dataclass(frozen=True)
class ResponseText:
    """Prompt and response tokens of one text."""

    prompt_ids: Tokens
    response_ids: Tokens


def read_pairs(prepared: Path, *, split: str | None = None, objective: str | None = None) -> list[TokenisedPair]:
    """Prepared pairs in their stored order, of one split and objective where given."""
    return [
        TokenisedPair(
            row["pair_id"],
            row["objective"],
            _prompt(row["prompt"]),
            row["chosen"],
            row["rejected"],
            *(tuple(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")),
        )
        for row in pyarrow.parquet.read_table(prepared / "pairs.parquet").to_pylist()
        if split in (None, row["split"]) and objective in (None, row["objective"])
    ]


def read_held_out(prepared: Path, *, limit: int) -> list[HeldOutPrompt]:
    rows = pyarrow.parquet.read_table(prepared / "prompts.parquet").slice(0, limit).to_pylist()
    return [HeldOutPrompt(_prompt(row["prompt"]), tuple(row["prompt_ids"])) for row in rows]


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


def _prompt(stored: str) -> Any:
    """Text, or chat messages as reward functions expect them."""
    value = json.loads(stored)
    return value if isinstance(value, str) else [{"role": role, "content": content} for role, content in value]
