"""Rows from local files, folders, object stores and the hub, one at a time, each with the place it came from."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from modpo.config.disk import DATA_SUFFIXES
from modpo.config.sources import SourceConfig
from modpo.errors import InputError, Problem, closest, shown

LONGEST_CSV_FIELD = 100_000_000
SPLIT_NAMES = frozenset({"train", "test", "validation", "valid", "dev", "eval"})
NAME_PARTS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Row:
    """One record and where it stands, `file:line` with lines counted from 1."""

    where: str
    values: Mapping[str, Any]


def read_rows(source: SourceConfig) -> Iterator[Row | Problem]:
    """Rows of a source in their own order; a row that cannot be read becomes a problem and reading goes on.

    Raises:
        InputError: the source as a whole cannot be opened.
    """
    if "://" in source.path:
        yield from _read_store(source.path)
        return
    path = Path(source.path)
    if path.is_file():
        yield from _read_file(str(path), path.suffix, partial(_open, path))
        return
    shards = shards_of(path, source.split)
    for shard in shards:
        yield from _read_file(str(shard), shard.suffix, partial(_open, shard))
    if not shards:
        yield from _read_datasets(source)


def shards_of(folder: Path, split: str) -> list[Path]:
    """Data files below a folder, sorted by path; hidden ones are left out.

    Where names say `train`, `test` and the like, only those of the split.
    """
    if not folder.is_dir():
        return []
    visible = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_data(str(path.relative_to(folder)))]
    named = {path: SPLIT_NAMES & set(NAME_PARTS.split(str(path.relative_to(folder)).lower())) for path in visible}
    if not any(named.values()):
        return visible
    return [path for path in visible if split.lower() in named[path]]


def _is_data(name: str) -> bool:
    """Whether a path relative to its folder has a known ending and no hidden part."""
    return Path(name).suffix in DATA_SUFFIXES and not any(part.startswith(".") for part in Path(name).parts)


def lookup(row: Row, dotted: str) -> Any:
    """The value of a column: `a.b` reaches into nested mappings, `a.0` into lists, `a.b` over a list takes each b.

    Raises:
        InputError: the row has no such column; the message lists those it has.
    """
    node: Any = row.values
    for part in dotted.split("."):
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, list) and node and all(isinstance(item, Mapping) and part in item for item in node):
            node = [item[part] for item in node]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            raise InputError(_missing_column(row, dotted, part, node))
    return node


def _missing_column(row: Row, dotted: str, part: str, node: Any) -> Problem:
    known = sorted(map(str, node)) if isinstance(node, Mapping) else []
    return Problem(
        code="MS-202",
        what=f"column {dotted!r} is missing{closest(part, known)}",
        where=f"{row.where} ({dotted})",
        got=f"columns {', '.join(known)}" if known else shown(node),
        wanted=f"a column {dotted!r}",
        remedy="name the right column in the sweep file (`columns`, `scored`, `ranked` or `compared`)",
    )


def _read_file(name: str, suffix: str, open_binary: Callable[[], BinaryIO]) -> Iterator[Row | Problem]:
    readers = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".json": _read_json, ".csv": _read_csv}
    try:
        with open_binary() as file:
            yield from readers.get(suffix, _read_parquet)(name, file)
    except OSError as error:
        raise InputError(
            Problem(
                code="MS-200",
                what="the data file cannot be read",
                where=name,
                got=error.strerror or str(error),
                remedy="check its permissions",
            )
        ) from error


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _read_store(url: str) -> Iterator[Row | Problem]:
    """A file or folder of an object store, through Arrow's filesystems: s3://, gs://, hdfs://, file://."""
    # Arrow is loaded only where it is needed: `modpo --help` stays quick.
    import pyarrow  # noqa: PLC0415
    import pyarrow.fs  # noqa: PLC0415

    try:
        filesystem, place = pyarrow.fs.FileSystem.from_uri(url)
        info = filesystem.get_file_info(place)
        if info.type == pyarrow.fs.FileType.Directory:
            found = filesystem.get_file_info(pyarrow.fs.FileSelector(place, recursive=True))
            below = {item.path: item.path.removeprefix(place).strip("/") for item in found}
            files = sorted(path for path, name in below.items() if _is_data(name))
        else:
            files = [place] if info.type == pyarrow.fs.FileType.File else []
        if not files:
            raise FileNotFoundError(f"no {', '.join(DATA_SUFFIXES)} file there")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            Problem(
                code="MS-206",
                what="the data set cannot be loaded",
                where=url,
                got=shown(str(error)),
                wanted="a file or folder that this machine may read",
                remedy="check the address, and the credentials of the store",
            )
        ) from error
    scheme = url.split("://", maxsplit=1)[0]
    for file in files:
        yield from _read_file(f"{scheme}://{file}", Path(file).suffix, partial(_buffered, filesystem, file))


def _buffered(filesystem: Any, path: str) -> BinaryIO:
    # Arrow's own files cannot be read line by line.
    return cast(BinaryIO, io.BufferedReader(filesystem.open_input_file(path)))


def _read_jsonl(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _parse_line(line, f"{name}:{number}")


def _parse_line(line: bytes, where: str) -> Row | Problem:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _not_utf8(where, line[error.start], error.start)
    try:
        values = parse_json(text)
    except (ValueError, RecursionError) as error:
        return _json_problem(where, str(error))
    return Row(where, values) if isinstance(values, dict) else _json_problem(where, f"a {type(values).__name__}")


def parse_json(text: str) -> Any:
    """JSON as its standard has it: no NaN or Infinity, and no key twice in one object.

    Raises:
        ValueError: it is not.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice[:40]!r} is given twice")
    return values


def _not_utf8(where: str, byte: int, offset: int) -> Problem:
    return Problem(
        code="MS-203",
        what="the line is not UTF-8",
        where=where,
        got=f"byte 0x{byte:02x} at offset {offset}",
        wanted="UTF-8 text",
        remedy="convert the file, for instance with `iconv -f latin1 -t utf-8`",
    )


def _json_problem(where: str, got: str) -> Problem:
    return Problem(
        code="MS-204",
        what="the text is not a JSON object",
        where=where,
        got=got,
        wanted='one object such as {"prompt": ..., "chosen": ..., "rejected": ...}',
        remedy="mend or remove the line",
    )


def _read_json(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    try:
        records = parse_json(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(_json_problem(name, str(error))) from error
    if not isinstance(records, list):
        raise InputError(_json_problem(name, f"a {type(records).__name__} at the top level, not an array of rows"))
    for number, values in enumerate(records, start=1):
        where = f"{name}:row {number}"
        yield Row(where, values) if isinstance(values, dict) else _json_problem(where, f"a {type(values).__name__}")


class _BrokenLineError(Exception):
    """A line that is not UTF-8: where a CSV row would end is not known after it."""


def _read_csv(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    csv.field_size_limit(LONGEST_CSV_FIELD)
    reader = csv.reader(_decoded_lines(name, file), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            where = f"{name}:{reader.line_num}"
            if header is None:
                header = fields
            elif fields and len(fields) != len(header):
                yield _csv_problem(where, f"{len(fields)} fields", f"{len(header)}, as the first line has")
            elif fields:
                yield Row(where, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        yield _csv_problem(f"{name}:{reader.line_num}", str(error), "quotes that are closed")
    except _BrokenLineError as error:
        yield cast(Problem, error.args[0])


def _decoded_lines(name: str, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _BrokenLineError(_not_utf8(f"{name}:{number}", line[error.start], error.start)) from error


def _csv_problem(where: str, got: str, wanted: str) -> Problem:
    return Problem(
        code="MS-240",
        what="the row of the CSV file cannot be read",
        where=where,
        got=got,
        wanted=wanted,
        remedy="put quotes around texts with commas or line breaks, and double the quotes inside them",
    )


def _read_parquet(name: str, file: BinaryIO) -> Iterator[Row | Problem]:
    import pyarrow  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=4096):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{name}:row {number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            Problem(
                code="MS-205",
                what="the parquet file cannot be read",
                where=name,
                got=shown(str(error)),
                wanted="an Apache Parquet file",
                remedy="write it again, or check that it was copied whole",
            )
        ) from error


def _read_datasets(source: SourceConfig) -> Iterator[Row | Problem]:
    # A hub id, or a folder without data files of its own: `datasets` knows both. Its import takes over a second.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    import datasets  # noqa: PLC0415

    try:
        rows = datasets.load_dataset(
            source.path, source.subset, data_dir=source.data_dir, split=source.split, revision=source.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            Problem(
                code="MS-206",
                what="the data set cannot be loaded",
                where=source.path,
                got=shown(str(error)),
                wanted="a hub data set that this machine can reach, or a folder of data files",
                remedy="check the name, the split and the network; a local file works without a network",
            )
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(f"{source.path}[{source.split}]:row {number}", values)
