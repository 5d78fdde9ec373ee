"""What a run keeps: folders that are committed whole, with a SHA-256 of every file, and small JSON files.

A folder is written aside, its manifest last, and renamed; on an object store its files go under a name of their own and
the manifest decides, by a conditional put: so a folder is whole or not there at all, whoever else writes it at once.

Everything that modpo keeps goes through here. Nothing here unpickles.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modpo.disk_space import room_for
from modpo.errors import Problem, SetupError
from modpo.guards import ask_guards
from modpo.manifests import (
    MANIFEST,
    Digests,
    digest_of,
    file_sha256,
    folder_digest,
    json_bytes,
    manifest_of,
    parsed_manifest,
    sync_to_disk,
    wrong_bytes,
    wrong_size,
)
from modpo.storage import Stored, address, stored
from modpo.transfer import fetch, upload

__all__ = [
    "MANIFEST",
    "commit_directory",
    "committed",
    "create_json",
    "damage_here",
    "damage_of",
    "digest_of",
    "file_sha256",
    "find_json",
    "folder_digest",
    "is_complete",
    "is_valid",
    "publish",
    "read_json",
    "remove",
    "set_aside",
    "stage_path",
    "verified",
    "write_json",
    "write_json_lines",
    "writing",
]

# What this process has verified: a folder's manifest, as it was then.
_verified: dict[Path, bytes] = {}


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically: a reader sees the old text or the new, never a part."""
    ask_guards(path)
    place = stored(path)
    if place is not None:
        place.write(json_bytes(value))
        return
    with _json_aside(path, value) as aside:
        aside.replace(path)


def create_json(path: Path, value: Any) -> bool:
    """Writes a JSON file only where there is none: of any number of processes at once, exactly one gets True.

    Where an object store's answer is lost on its way, its own writer may get False too: the file tells.
    """
    place = stored(path)
    if place is not None:
        return place.create(json_bytes(value))
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
    content = json_bytes(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with room_for(path.parent, len(content)), aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value a line into a folder that nobody reads yet."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value of a JSON file: a run's own, or one in a committed folder that is here.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON.
    """
    place = stored(path)
    if place is None or path.exists():
        return json.loads(path.read_bytes())
    content = place.read()
    if content is None:
        raise FileNotFoundError(place.url)
    return json.loads(content)


def find_json(path: Path) -> Any | None:
    """The same, and None where there is none."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def publish(source: Path, target: Path) -> None:
    """Moves a file that is for people to its place in the run; readers of the place see the old one or the new."""
    ask_guards(target)
    place = stored(target)
    if place is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    else:
        place.write(source.read_bytes())


def stage_path(run_dir: Path, stage: str, digest: str) -> Path:
    return run_dir / "artifacts" / f"{stage}-{digest}"


def is_complete(folder: Path) -> bool:
    """Whether a folder was committed. Presence of the manifest suffices: it is written last."""
    place = stored(folder)
    return (folder / MANIFEST).is_file() if place is None else (place / MANIFEST).exists()


def is_valid(folder: Path) -> bool:
    """Whether a folder was committed and every byte is still what the manifest says."""
    return damage_of(folder) == ""


def damage_of(folder: Path) -> str:
    """What is wrong with a folder, for people; empty where every byte is what its manifest says.

    Of one on an object store the sizes are looked at: its bytes are the store's to keep, and are checked when they are
    fetched.
    """
    place = stored(folder)
    content = _manifest_bytes(folder)
    if content is None:
        return f"it has no {MANIFEST}"
    manifest = parsed_manifest(content)
    if manifest is None:
        return f"{MANIFEST} is damaged"
    if place is not None:
        return wrong_size(manifest, (place / manifest["at"]).sizes())
    return wrong_bytes(folder, manifest)


def verified(folder: Path) -> Path:
    """A committed folder on this node, fetched where it is not, once every byte of it has been found right.

    Each process checks it once; a node fetches it once. A damaged one is set aside: it is then as if it had never been.

    Raises:
        SetupError: it is damaged, or not there.
    """
    content = _manifest_bytes(folder)
    if content is not None and _verified.get(folder) == content and (folder / MANIFEST).exists():
        return folder
    if damage := damage_here(folder):
        set_aside(folder)
        raise SetupError(
            Problem(
                code="MS-424",
                what="what an earlier stage has stored is damaged",
                where=address(folder),
                got=damage,
                wanted="every byte as it was written",
                remedy="run the same command again: it is set aside, and made anew",
            )
        )
    if content is not None:
        _verified[folder] = content
    return folder


def damage_here(folder: Path) -> str:
    """The same as `damage_of`, but of every byte on an object store too: the folder is fetched for that."""
    place, content = stored(folder), _manifest_bytes(folder)
    if (damage := damage_of(folder)) or place is None or content is None:
        return damage
    return fetch(place, folder, content)


def committed(folder: Path, pattern: str) -> list[Path]:
    """The committed folders in a folder whose names match, sorted by name."""
    place = stored(folder)
    if place is None:
        found = [path.parent for path in folder.glob(f"{pattern}/{MANIFEST}")]
    else:
        names = [Path(name) for name in place.sizes()]
        found = [folder / name.parent for name in names if name.match(f"{pattern}/{MANIFEST}") and len(name.parts) == 2]
    return sorted(path for path in found if not path.name.startswith("."))


def set_aside(path: Path) -> str:
    """Takes a damaged folder or JSON file out of everybody's way, keeping its bytes; returns where they are now."""
    ask_guards(path)
    mark = f"bad-{uuid.uuid4().hex[:8]}"
    _verified.pop(path, None)
    place = stored(path)
    if place is None:
        target = path.with_name(f".{path.name}.{mark}")
        # Somebody else may have seen the damage first.
        with suppress(FileNotFoundError):
            path.rename(target)
        return str(target)
    shutil.rmtree(path, ignore_errors=True)
    decisive = place if path.suffix == ".json" else place / MANIFEST
    content = decisive.read()
    if content is not None:
        Stored(f"{decisive.url}.{mark}").write(content)
        decisive.remove()
    return f"{decisive.url}.{mark}"


def remove(path: Path) -> None:
    """Deletes a folder, or a file, here and on the store; nothing where there is nothing."""
    ask_guards(path)
    _verified.pop(path, None)
    place = stored(path)
    if place is not None:
        # Without its manifest it is no longer there, whatever happens to the rest.
        (place / MANIFEST).remove()
        place.remove()
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty folder to fill; on a clean exit it becomes `folder`, on an exception it disappears.

    Args:
        folder: where the artefact will stand.
        description: what it is and what it was made from; stored in the manifest.

    Raises:
        SetupError: the disk is full.
    """
    ask_guards(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        with room_for(aside):
            aside.mkdir()
            yield aside
            commit_directory(aside, folder, description)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def commit_directory(
    aside: Path,
    folder: Path,
    description: Mapping[str, Any],
    *,
    replace: bool = False,
    digests: Digests | None = None,
) -> None:
    """Syncs every file, writes the manifest last and renames; an artefact that is already there is kept.

    Args:
        replace: remove what is there instead.
        digests: SHA-256 of files that the disk has already, by name, or who is still computing them.
    """
    ask_guards(folder)
    place = stored(folder)
    if place is not None and replace:
        remove(folder)
    if place is not None:
        upload(place, aside, folder, description, digests or {})
        return
    write_json(aside / MANIFEST, manifest_of(aside, description, digests or {}, sync=True))
    for inner in (*(path for path in aside.rglob("*") if path.is_dir()), aside):
        sync_to_disk(inner)
    ask_guards(folder)
    if replace:
        remove(folder)
    try:
        aside.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
        # Another process committed the same content first: theirs is as good as ours.
    sync_to_disk(folder.parent)


def _manifest_bytes(folder: Path) -> bytes | None:
    place = stored(folder)
    if place is not None:
        return (place / MANIFEST).read()
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None
