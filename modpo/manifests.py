"""Manifests of committed folders: SHA-256 and size of every file, and a digest of the manifest itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
DIGEST_CHARACTERS = 16
THREADS = 8

Manifest = dict[str, Any]
Digests = Mapping[str, Future[str]]


def digest_of(value: Any) -> str:
    """Short SHA-256 of a JSON value; equal values give equal digests whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def json_bytes(value: Any) -> bytes:
    """How modpo writes JSON that people may read."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest over names and bytes of all files in a folder: changes when any byte does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of([[str(path.relative_to(folder)), file_sha256(path)] for path in files])


def manifest_of(folder: Path, description: Mapping[str, Any], digests: Digests, *, sync: bool) -> Manifest:
    """What is to be written beside the files of a folder.

    Args:
        digests: of files whose SHA-256 is known already, or being computed.
        sync: also wait until the disk has every file.
    """
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with ThreadPoolExecutor(THREADS) as pool:
        # At once: a disk takes several files in hardly more time than one, and digests are computed meanwhile.
        synced = [pool.submit(sync_to_disk, path) for path in paths.values() if sync]
        found = {name: digests.get(name) or pool.submit(file_sha256, path) for name, path in paths.items()}
        for waiting in synced:
            waiting.result()
        manifest = {
            **description,
            "files": {name: digest.result() for name, digest in found.items()},
            "sizes": {name: path.stat().st_size for name, path in paths.items()},
        }
    return manifest | {"digest": digest_of(manifest)}


def parsed_manifest(content: bytes) -> Manifest | None:
    """A manifest that is itself as it was written, else None."""
    try:
        manifest: Manifest = json.loads(content)
        if "sizes" in manifest or "digest" in manifest:
            digest = manifest.pop("digest")
        else:
            # Those of 0.1.0 had neither.
            manifest, digest = {**manifest, "sizes": {}}, None
        is_whole = digest in (None, digest_of(manifest))
        return manifest if is_whole and isinstance(manifest["files"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def wrong_size(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """The first file that has not the size that it was written with; empty where there is none."""
    for name in manifest["files"]:
        if name not in sizes:
            return f"{name} is missing"
        wanted = manifest["sizes"].get(name, sizes[name])
        if sizes[name] != wanted:
            return f"{name} has {sizes[name]} of {wanted} bytes"
    return ""


def wrong_bytes(folder: Path, manifest: Manifest) -> str:
    """The first file in a folder that is not as it was written; empty where there is none."""
    paths = {name: folder / name for name in manifest["files"]}
    if wrong := wrong_size(manifest, {name: path.stat().st_size for name, path in paths.items() if path.is_file()}):
        return wrong
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(file_sha256, paths.values())
        changed = [name for name, digest in zip(paths, digests, strict=True) if manifest["files"][name] != digest]
    return next((f"{name} has other bytes" for name in changed), "")


def sync_to_disk(path: Path) -> None:
    """Waits until the disk has a file, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
