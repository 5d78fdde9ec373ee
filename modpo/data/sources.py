"""Rows from local files, folders, object stores and the hub, one at a time, each with the place it came from."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from modpo.config.disk import DATA_SUFFIXES
from modpo.config.sources import SourceConfig
from modpo.data.files import read_file
from modpo.data.rows import Row
from modpo.errors import InputError, Problem, shown

SPLIT_NAMES = frozenset({"train", "test", "validation", "valid", "dev", "eval"})
NAME_PARTS = re.compile(r"[^a-z0-9]+")


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
        yield from _going_on(_read_file(str(shard), shard.suffix, partial(_open, shard)))
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


def _going_on(rows: Iterator[Row | Problem]) -> Iterator[Row | Problem]:
    """One file of several: the others are read, and judged, whatever is wrong with it."""
    try:
        yield from rows
    except InputError as error:
        yield from error.problems


def _read_file(name: str, suffix: str, open_binary: Callable[[], BinaryIO]) -> Iterator[Row | Problem]:
    try:
        with open_binary() as file:
            yield from read_file(name, suffix, file)
    except OSError as error:
        raise InputError(
            Problem(
                code="MS-200",
                what="the data file cannot be read",
                where=name,
                got=error.strerror or str(error),
                wanted="a file that this user may read",
                remedy="check its permissions",
            )
        ) from error


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _read_store(url: str) -> Iterator[Row | Problem]:
    """A file or folder of an object store, through Arrow's filesystems: s3://, gs://, hdfs://, file://."""
    # Arrow's filesystems are loaded only where they are needed.
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
        yield from _going_on(_read_file(f"{scheme}://{file}", Path(file).suffix, partial(_buffered, filesystem, file)))


def _buffered(filesystem: Any, path: str) -> BinaryIO:
    # Arrow's own files cannot be read line by line.
    return cast(BinaryIO, io.BufferedReader(filesystem.open_input_file(path)))


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
