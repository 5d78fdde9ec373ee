"""Committed folders on their way to an object store, and from there to a node."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modpo.disk_space import room_for
from modpo.guards import ask_guards
from modpo.manifests import MANIFEST, Digests, Manifest, json_bytes, manifest_of, parsed_manifest, wrong_bytes
from modpo.storage import Stored


def upload(place: Stored, aside: Path, folder: Path, description: Mapping[str, Any], digests: Digests) -> None:
    """All files, under a name of their own, and then the manifest, if no other process has put its own there before."""
    name = uuid.uuid4().hex[:8]
    manifest = manifest_of(aside, {**description, "at": name}, digests, sync=False)
    (place / name).upload({file: aside / file for file in manifest["files"]})
    content = json_bytes(manifest)
    # Files of some gigabytes have taken their time.
    ask_guards(folder)
    if not (place / MANIFEST).create(content) and (place / MANIFEST).read() != content:
        # Theirs is as good as ours.
        (place / name).remove()
        return
    (aside / MANIFEST).write_bytes(content)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        # Another process of this node may fetch it already.
        aside.rename(folder)


def fetch(place: Stored, folder: Path, content: bytes) -> str:
    """Has a folder of the store here, as its manifest says; returns what is wrong with it there, if anything is.

    Args:
        content: the manifest, as it is on the store.
    """
    manifest = parsed_manifest(content)
    assert manifest is not None, "it has just been read"
    with _alone_on_node(folder):
        if not (folder / MANIFEST).is_file() or (folder / MANIFEST).read_bytes() != content:
            return _download(place, folder, content, manifest)
    # Somebody has fetched it before: an earlier process, or one beside this.
    if not wrong_bytes(folder, manifest):
        return ""
    with _alone_on_node(folder):
        return _download(place, folder, content, manifest)


@contextmanager
def _alone_on_node(folder: Path) -> Iterator[None]:
    """One process at a time: the workers of a node need the same folders at the same moment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(place: Stored, folder: Path, content: bytes, manifest: Manifest) -> str:
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        with room_for(aside, sum(manifest["sizes"].values())):
            aside.mkdir()
            (place / manifest["at"]).download({name: aside / name for name in manifest["files"]})
            (aside / MANIFEST).write_bytes(content)
        damage = wrong_bytes(aside, manifest)
        if not damage:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        return damage
    finally:
        shutil.rmtree(aside, ignore_errors=True)
