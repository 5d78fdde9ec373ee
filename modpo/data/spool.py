"""Items that are too many for memory: written to a temporary file as they come, read back in order or by number."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow

T = TypeVar("T")

BATCH_ROWS = 2000


class Spool(Generic[T]):
    """A sized sequence behind an Arrow file that is mapped, not loaded; the file goes when the spool does.

    Args:
        schema: columns of the file.
        encode: an item as one value a column, in the schema's order.
        decode: the item of such values.
    """

    def __init__(self, schema: pyarrow.Schema, encode: Callable[[T], Sequence[Any]], decode: Callable[..., T]) -> None:
        self._schema, self._encode, self._decode = schema, encode, decode
        self._buffer: list[Sequence[Any]] = []
        self._path = ""
        self._writer: Any = None
        self._table: pyarrow.Table | None = None
        self._length = 0

    def append(self, item: T) -> None:
        """Adds an item; not after the first one was read back."""
        assert self._table is None, "a spool that is read takes no more items"
        self._buffer.append(self._encode(item))
        self._length += 1
        if len(self._buffer) >= BATCH_ROWS:
            self._flush()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        if self._length:
            for batch in self._mapped().to_batches(max_chunksize=BATCH_ROWS):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield self._decode(*values)

    def __getitem__(self, number: int) -> T:
        table = self._mapped()
        return self._decode(*(table.column(name)[number].as_py() for name in self._schema.names))

    def _flush(self) -> None:
        if self._writer is None:
            descriptor, self._path = tempfile.mkstemp(prefix="modpo-rows-", suffix=".arrow")
            os.close(descriptor)
            weakref.finalize(self, _remove, self._path)
            self._writer = pyarrow.ipc.new_file(self._path, self._schema)
        columns = zip(*self._buffer, strict=True)
        arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._buffer = []

    def _mapped(self) -> pyarrow.Table:
        if self._table is None:
            if self._buffer:
                self._flush()
            self._writer.close()
            self._table = pyarrow.ipc.open_file(pyarrow.memory_map(self._path)).read_all()
        return self._table


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
