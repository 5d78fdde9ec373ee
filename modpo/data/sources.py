"""Rows from local files, folders and the hub, each with the place it came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpo.config.sources import SourceConfig
from modpo.errors import InputError, Problem, closest, shown


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
    path = Path(source.path)
    if not path.is_file():
        yield from _read_datasets(source)
        return
    read = {".jsonl": _read_jsonl, ".json": _read_json}.get(path.suffix, _read_parquet)
    try:
        yield from read(path)
    except OSError as error:
        raise InputError(
            Problem(
                code="MS-200",
                what="the data file cannot be read",
                where=source.path,
                got=error.strerror or str(error),
                remedy="check its permissions",
            )
        ) from error


def lookup(row: Row, dotted: str) -> Any:
    """The value of a column, `a.b` reaching into nested mappings.

    Raises:
        InputError: the row has no such column; the message lists those it has.
    """
    node: Any = row.values
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            known = sorted(node) if isinstance(node, Mapping) else []
            raise InputError(
                Problem(
                    code="MS-202",
                    what=f"column {dotted!r} is missing{closest(part, known)}",
                    where=f"{row.where} ({dotted})",
                    got=f"columns {', '.join(known)}" if known else shown(node),
                    wanted=f"a column {dotted!r}",
                    remedy="name the right column in the sweep file (`columns` or `scored`)",
                )
            )
        node = node[part]
    return node


def _read_jsonl(path: Path) -> Iterator[Row | Problem]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse_line(line, f"{path}:{number}")


def _parse_line(line: bytes, where: str) -> Row | Problem:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Problem(
            code="MS-203",
            what="the line is not UTF-8",
            where=where,
            got=f"byte 0x{line[error.start]:02x} at offset {error.start}",
            wanted="UTF-8 text",
            remedy="convert the file, for instance with `iconv -f latin1 -t utf-8`",
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _json_problem(where, str(error))
    return Row(where, values) if isinstance(values, dict) else _json_problem(where, f"a {type(values).__name__}")


def _json_problem(where: str, got: str) -> Problem:
    return Problem(
        code="MS-204",
        what="the text is not a JSON object",
        where=where,
        got=got,
        wanted='one object such as {"prompt": ..., "chosen": ..., "rejected": ...}',
        remedy="mend or remove the line",
    )


def _read_json(path: Path) -> Iterator[Row | Problem]:
    try:
        records = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(_json_problem(str(path), str(error))) from error
    if not isinstance(records, list):
        raise InputError(_json_problem(str(path), f"a {type(records).__name__} at the top level, not an array of rows"))
    for number, values in enumerate(records, start=1):
        where = f"{path}:row {number}"
        yield Row(where, values) if isinstance(values, dict) else _json_problem(where, f"a {type(values).__name__}")


def _read_parquet(path: Path) -> Iterator[Row | Problem]:
    # Arrow is loaded only where a parquet file is read: `modpo --help` stays quick.
    import pyarrow  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:row {number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            Problem(
                code="MS-205",
                what="the parquet file cannot be read",
                where=str(path),
                got=shown(str(error)),
                wanted="an Apache Parquet file",
                remedy="write it again, or check that it was copied whole",
            )
        ) from error


def _read_datasets(source: SourceConfig) -> Iterator[Row | Problem]:
    # A hub id or a folder: `datasets` knows both layouts. Its import takes over a second.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    import datasets  # noqa: PLC0415

    try:
        rows = datasets.load_dataset(source.path, split=source.split, revision=source.revision)
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
