"""Content-addressed stage outputs: written aside, SHA-256 manifest last, renamed; so whole or not there at all.

Everything that modpo keeps goes through `commit_directory` or `write_json`. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modpo.errors import InternalError, Problem

MANIFEST = "manifest.json"
DIGEST_CHARACTERS = 16


def digest_of(value: Any) -> str:
    """Short SHA-256 of a JSON value; equal values give equal digests whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest over names and bytes of all files in a folder: changes when any byte does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of([[str(path.relative_to(folder)), file_sha256(path)] for path in files])


_guards: dict[Path, Callable[[], None]] = {}


@contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """For the length of a block this process keeps nothing below a folder unless `check` returns: it raises."""
    before = dict(_guards)
    _guards[folder] = check
    try:
        yield
    finally:
        _guards.clear()
        _guards.update(before)


def ask_guards(path: Path) -> None:
    """Raises where something below a guarded folder may not be written any more."""
    for folder, check in list(_guards.items()):
        if path.is_relative_to(folder):
            check()


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically: a reader sees the old text or the new, never a part."""
    ask_guards(path)
    with _json_aside(path, value) as aside:
        aside.replace(path)


def create_json(path: Path, value: Any) -> bool:
    """Writes a JSON file only where there is none: of any number of processes at once, exactly one gets True."""
    with _json_aside(path, value) as aside:
        try:
            # A link is made by one call that fails where the name is taken, on NFS as well; a rename would replace.
            os.link(aside, path)
        except FileExistsError:
            # A server that did it and whose answer was lost is asked again, and finds our own link.
            return aside.stat().st_nlink > 1
        return True


@contextmanager
def _json_aside(path: Path, value: Any) -> Iterator[Path]:
    """A JSON file beside `path`, synced, under a name that nobody reads; gone at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value a line into a folder that nobody reads yet."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def stage_path(run_dir: Path, stage: str, digest: str) -> Path:
    return run_dir / "artifacts" / f"{stage}-{digest}"


def is_complete(folder: Path) -> bool:
    """Whether a folder was committed. Presence of the manifest suffices: it is written before the rename."""
    return (folder / MANIFEST).is_file()


def is_valid(folder: Path) -> bool:
    """Whether a folder was committed and every byte is still what the manifest says."""
    try:
        files = read_json(folder / MANIFEST)["files"]
        return all(file_sha256(folder / name) == sha for name, sha in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def writing(folder: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty folder to fill; on a clean exit it becomes `folder`, on an exception it disappears.

    Args:
        folder: where the artefact will stand.
        description: what it is and what it was made from; stored in the manifest.
    """
    ask_guards(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir()
    try:
        yield aside
        commit_directory(aside, folder, description)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def commit_directory(aside: Path, folder: Path, description: Mapping[str, Any]) -> None:
    """Syncs every file, writes the manifest last and renames; an artefact that is already there is kept."""
    files: dict[str, str] = {}
    for path in sorted(path for path in aside.rglob("*") if path.is_file()):
        files[str(path.relative_to(aside))] = file_sha256(path)
        _sync(path)
    write_json(aside / MANIFEST, {"files": files, **description})
    _sync(aside)
    ask_guards(folder)
    try:
        aside.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
        # Another process committed the same content first: theirs is as good as ours.
    _sync(folder.parent)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
