"""The parquet tables of the prepare stage: their columns, and a writer that holds one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

ROWS_PER_GROUP = 5000

_TOKENS = pyarrow.list_(pyarrow.int32())
_TEXT = pyarrow.string()

PROMPTS = pyarrow.schema([("prompt", _TEXT), ("prompt_ids", _TOKENS)])
LABEL_PROMPTS = pyarrow.schema([("prompt", _TEXT), ("prompt_ids", _TOKENS), ("split", _TEXT)])
SFT = pyarrow.schema([("prompt_ids", _TOKENS), ("response_ids", _TOKENS)])
SCORED = pyarrow.schema([("prompt", _TEXT), ("response", _TEXT), ("score", pyarrow.float64()), ("split", _TEXT)])


def pairs_schema(column_rewards: Sequence[str]) -> pyarrow.Schema:
    """Columns of pairs.parquet; rewards that stand in columns of the data are null where a source has none.

    Args:
        column_rewards: objectives whose rewards stand in columns.
    """
    texts = ("pair_id", "objective", "split", "prompt", "chosen", "rejected")
    tokens = ("prompt_ids", "chosen_ids", "rejected_ids")
    numbers = [name for objective in column_rewards for name in column_names(objective)]
    return pyarrow.schema(
        [
            *((name, _TEXT) for name in texts),
            *((name, _TOKENS) for name in tokens),
            *((name, pyarrow.float64()) for name in numbers),
        ]
    )


def column_names(objective: str) -> tuple[str, str]:
    """Where pairs.parquet keeps a reward that stands in columns of the data: of chosen, of rejected."""
    return f"column_{objective}_chosen", f"column_{objective}_rejected"


class TableWriter:
    """Appends rows to a parquet file, group by group."""

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(path, schema)
        self._schema = schema
        self._rows: list[Mapping[str, Any]] = []

    def append(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


@contextmanager
def table_writer(path: Path, schema: pyarrow.Schema) -> Iterator[TableWriter]:
    writer = TableWriter(path, schema)
    try:
        yield writer
    finally:
        writer.close()
