"""Items that are too many for memory: written to a temporary file as they come, read back in order or by number."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import pyarrow

T = TypeVar("T")

BATCH_ROWS = 2000


class Spool(Generic[T]):
    """A sized sequence in an Arrow file, of which one batch is in memory at a time.

    The file has no name: it goes with the spool, or with the process however that ends.

    Args:
        schema: columns of the file.
        encode: an item as one value a column, in the schema's order.
        decode: the item of such values.
    """

    def __init__(self, schema: pyarrow.Schema, encode: Callable[[T], Sequence[Any]], decode: Callable[..., T]) -> None:
        self._schema, self._encode, self._decode = schema, encode, decode
        self._buffer: list[Sequence[Any]] = []
        self._file: Any = None
        self._writer: Any = None
        self._mapped: list[pyarrow.RecordBatch] | None = None
        self._closed = False
        self._length = 0

    def append(self, item: T) -> None:
        """Adds an item; not after the first one was read back."""
        assert not self._closed, "a spool that is read takes no more items"
        self._buffer.append(self._encode(item))
        self._length += 1
        if len(self._buffer) >= BATCH_ROWS:
            self._flush()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for values in self._rows(self._schema.names):
            yield self._decode(*values)

    def column(self, name: str) -> Iterator[Any]:
        """The values of one column of the file; the others are not read."""
        return (value for (value,) in self._rows([name]))

    def __getitem__(self, number: int) -> T:
        if self._mapped is None:
            self._close()
            self._mapped = pyarrow.ipc.open_file(pyarrow.memory_map(self._path)).read_all().to_batches()
        # Every batch but the last is full.
        batch, row = self._mapped[number // BATCH_ROWS], number % BATCH_ROWS
        return self._decode(*(column[row].as_py() for column in batch.columns))

    def _rows(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Batch by batch through a buffer: pages of a mapped file would count as memory of this process."""
        if not self._length:
            return
        self._close()
        options = pyarrow.ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name) for name in names])
        with pyarrow.OSFile(self._path) as file:
            reader = pyarrow.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)

    def _flush(self) -> None:
        if self._writer is None:
            self._file = tempfile.TemporaryFile(prefix="modpo-rows-")  # noqa: SIM115 # open as long as the spool
            weakref.finalize(self, self._file.close)
            self._writer = pyarrow.ipc.new_file(self._file, self._schema)
        columns = zip(*self._buffer, strict=True)
        arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._buffer = []

    @property
    def _path(self) -> str:
        """Where the open file can be opened once more, with a position of its own."""
        return f"/dev/fd/{self._file.fileno()}"

    def _close(self) -> None:
        """Ends the file, so that it can be read."""
        if self._closed:
            return
        if self._buffer:
            self._flush()
        self._writer.close()
        self._file.flush()
        self._closed = True
