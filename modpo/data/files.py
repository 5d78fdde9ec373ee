"""Rows of one file: JSON lines, a JSON array, CSV or parquet. A row that cannot be read becomes a problem instead."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from modpo.data.rows import Row, kind_of, told
from modpo.errors import InputError, Problem, shown

LONGEST_CSV_FIELD = 100_000_000
PARQUET_BATCH_ROWS = 4096
SPACE = re.compile(r"[ \t\n\r]*")
BLANK = b" \t\r\n\v\f" + codecs.BOM_UTF8
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
QUOTES_REMEDY = "put quotes around texts with commas or line breaks, and double the quotes inside them"


def read_file(name: str, suffix: str, file: BinaryIO) -> Iterator[Row | Problem]:
    """Rows in their order; reading goes on after a bad one wherever it is known where the next begins.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    readers = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".json": _read_json, ".csv": _read_csv}
    return readers.get(suffix, _read_parquet)(name, file)


def _decoded(line: bytes, where: str) -> str | Problem:
    marked = line.startswith(codecs.BOM_UTF8)
    try:
        return (line[len(codecs.BOM_UTF8) :] if marked else line).decode()
    except UnicodeDecodeError as error:
        offset = error.start + (len(codecs.BOM_UTF8) if marked else 0)
        encoding = "utf-16" if line.startswith(UTF_16_MARKS) else "latin1"
        return _not_utf8(where, f"byte 0x{line[offset]:02x} at offset {offset}", encoding)


def _not_utf8(where: str, got: str = "other bytes", encoding: str = "latin1") -> Problem:
    return Problem(
        code="MS-203",
        what="a text is not UTF-8",
        where=where,
        got=got,
        wanted="UTF-8 text",
        remedy=f"convert the file, for instance with `iconv -f {encoding} -t utf-8`",
    )


class _JsonReader:
    """JSON as its standard has it, but for NaN and Infinity: what reads a number refuses those with their column."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._repeated: str | None = None

    def whole(self, text: str) -> Any:
        """The value of a text.

        Raises:
            ValueError: it is none.
        """
        self._repeated = None
        return self._decoder.decode(text)

    def part(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at a place, and the place behind it.

        Raises:
            json.JSONDecodeError: none begins there.
        """
        self._repeated = None
        try:
            return self._decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), text, start) from error

    def row(self, where: str, values: Any) -> Row | Problem:
        """What was read last as a row."""
        if self._repeated is not None:
            return _not_json(where, f"key {self._repeated} is given twice")
        return Row(where, values) if isinstance(values, dict) else _not_json(where, kind_of(values))

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            self._repeated = told(_repeated([key for key, _ in pairs]))
        return values


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _reason(error: Exception) -> str:
    """What a JSON parser says, with the place in the line: the line itself is told by `where`."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"{error.msg.removesuffix(' at')} at character {error.colno}"


def _not_json(where: str, got: str) -> Problem:
    return Problem(
        code="MS-204",
        what="the text is not a JSON object",
        where=where,
        got=got,
        wanted='one object such as {"prompt": ..., "chosen": ..., "rejected": ...}',
        remedy="mend or remove it",
    )


def _read_jsonl(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    reader = _JsonReader()
    for number, line in enumerate(file, start=1):
        if line.strip(BLANK):
            yield _line(line, f"{name}:{number}", reader)


def _line(line: bytes, where: str, reader: _JsonReader) -> Row | Problem:
    text = _decoded(line, where)
    if isinstance(text, Problem):
        return text
    try:
        return reader.row(where, reader.whole(text))
    except (ValueError, RecursionError) as error:
        return _not_json(where, _reason(error))


def _read_json(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    lines = [_decoded(line, f"{name}:{number}") for number, line in enumerate(file, start=1)]
    faults = [line for line in lines if isinstance(line, Problem)]
    if faults:
        yield from faults
        return
    text = "".join(line for line in lines if isinstance(line, str))
    start = _skip(text, 0)
    if start == len(text):
        return
    if text[start] != "[":
        raise InputError(_no_array(name, f"{'an object' if text[start] == '{' else 'no array'} at the top level"))
    try:
        yield from _items(name, text, start + 1)
    except json.JSONDecodeError as error:
        yield _no_array(f"{name}:{error.lineno}", _reason(error))


def _items(name: str, text: str, position: int) -> Iterator[Row | Problem]:
    """Rows of an array, read one by one: those before a fault, and those after a key that is given twice, count.

    Raises:
        json.JSONDecodeError: the array is broken, so where its next item begins is not known.
    """
    reader, number = _JsonReader(), 0
    position = _skip(text, position)
    closed = text.startswith("]", position)
    while not closed:
        number += 1
        values, position = reader.part(text, position)
        yield reader.row(f"{name}:row {number}", values)
        position = _skip(text, position)
        closed = text.startswith("]", position)
        if not closed and not text.startswith(",", position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = position if closed else _skip(text, position + 1)
    position = _skip(text, position + 1)
    if position < len(text):
        raise json.JSONDecodeError("Extra data", text, position)


def _skip(text: str, position: int) -> int:
    found = SPACE.match(text, position)
    return found.end() if found else position


def _no_array(name: str, got: str) -> Problem:
    return Problem(
        code="MS-204",
        what="the file is not a JSON array of rows",
        where=name,
        got=got,
        wanted='an array such as [{"prompt": ..., "chosen": ..., "rejected": ...}, ...]',
        remedy="mend the array; a file with one object a line is called .jsonl",
    )


class _CsvLines:
    """Lines of a CSV file as text; those that are not UTF-8 are kept as problems, for a row may have several lines."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self._file = name, file
        self._faults: list[Problem] = []

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._file, start=1):
            text = _decoded(line, f"{self._name}:{number}")
            if isinstance(text, Problem):
                self._faults.append(text)
                text = line.decode(errors="replace")
            yield text

    def faults(self) -> list[Problem]:
        """Those of the lines since the last call."""
        found, self._faults = self._faults, []
        return found


def _read_csv(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    csv.field_size_limit(LONGEST_CSV_FIELD)
    lines = _CsvLines(name, file)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    begun = 1
    try:
        for fields in reader:
            begun = reader.line_num + 1
            faults = lines.faults()
            if header is None and fields:
                header = _unique_header(fields, f"{name}:{reader.line_num}")
                yield from faults
            elif faults:
                yield from faults
            elif header is not None and fields:
                yield _csv_row(fields, header, f"{name}:{reader.line_num}")
    except csv.Error as error:
        yield from lines.faults()
        yield _csv_problem(f"{name}:{begun}", str(error), "quotes that are closed")


def _unique_header(names: list[str], where: str) -> list[str]:
    """Refuses a header with a name twice.

    Raises:
        InputError: it has.
    """
    twice = _repeated(names)
    if twice is not None:
        raise InputError(
            _csv_problem(where, f"column {told(twice)} is given twice", "names that differ", "rename or remove one")
        )
    return names


def _csv_row(fields: list[str], header: list[str], where: str) -> Row | Problem:
    if len(fields) != len(header):
        return _csv_problem(where, f"{len(fields)} fields", f"{len(header)}, as the first line has")
    return Row(where, dict(zip(header, fields, strict=True)))


def _csv_problem(where: str, got: str, wanted: str, remedy: str = QUOTES_REMEDY) -> Problem:
    return Problem(
        code="MS-240",
        what="the row of the CSV file cannot be read",
        where=where,
        got=got,
        wanted=wanted,
        remedy=remedy,
    )


def _read_parquet(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    # Arrow is loaded only where it is needed: `modpo --help` stays quick.
    import pyarrow  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            twice = _repeated(table.schema_arrow.names)
            if twice is not None:
                raise InputError(_broken_parquet(name, f"column {told(twice)} is given twice"))
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for values in _parquet_rows(batch):
                    number += 1
                    where = f"{name}:row {number}"
                    yield Row(where, values) if isinstance(values, dict) else _not_utf8(f"{where} ({values})")
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(_broken_parquet(name, shown(str(error)))) from error


def _parquet_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch, or the column of one whose text is not UTF-8: writers of parquet do not check it."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(len(batch)):
            yield _parquet_row(batch, number)


def _parquet_row(batch: Any, number: int) -> dict[str, Any] | str:
    values: dict[str, Any] = {}
    for column in batch.schema.names:
        try:
            values[column] = batch.column(column)[number].as_py()
        except UnicodeDecodeError:
            return str(column)
    return values


def _broken_parquet(name: str, got: str) -> Problem:
    return Problem(
        code="MS-205",
        what="the parquet file cannot be read",
        where=name,
        got=got,
        wanted="an Apache Parquet file",
        remedy="write it again, or check that it was copied whole",
    )
