"""Runs on an object store: what stands there, and its working copies on the nodes.

    s3://bucket/prefix/NAME/points/x                         what counts
    SCRATCH/modpo-objects/s3/bucket/prefix/NAME/points/x     its working copy on a node

The path alone says what object it stands for, so a run's folder is an ordinary path in every process of every node. A
working copy holds committed folders that its node has written or fetched, and hidden files that are nobody else's;
whatever changes (the ledger, metrics) is read from the store and written to it, never kept beside it.

The stores' clients repeat what fails for a while: botocore's requests that are answered with 500, 502, 503 or a demand
to slow down, five times in all (AWS_MAX_ATTEMPTS, AWS_RETRY_MODE), s3fs those that break off; gcsfs and adlfs likewise.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpo.disk_space import is_out_of_space
from modpo.errors import Problem, SetupError, shown

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
"""By scheme, the package with fsspec's filesystem for it."""

WORKING_COPIES = "modpo-objects"
SCRATCH = "MODPO_SCRATCH"


def scheme_of(location: str) -> str | None:
    """`s3` of `s3://...`; None of a path."""
    scheme, separator, _ = location.partition("://")
    return scheme if separator else None


def working_copy(location: str) -> Path:
    """The path by which every process knows a folder: its own where it is one, else that of its working copies."""
    scheme = scheme_of(location)
    if scheme is None:
        return Path(location).absolute()
    base = Path(os.environ.get(SCRATCH) or tempfile.gettempdir()).absolute()
    return base / WORKING_COPIES / scheme / location.partition("://")[2].strip("/")


def url_of(path: Path) -> str | None:
    """The URL of what a path stands for; None where it stands for itself, as the hidden files of a working copy do."""
    if WORKING_COPIES not in path.parts:
        return None
    scheme, *names = path.parts[path.parts.index(WORKING_COPIES) + 1 :]
    return None if any(name.startswith(".") for name in names) else f"{scheme}://{'/'.join(names)}"


def address(path: Path) -> str:
    """What a user knows a path by."""
    return url_of(path) or str(path)


@dataclass(frozen=True)
class Stored:
    """An object, or all objects below a folder. Every call asks the store itself.

    Raises:
        SetupError: from each method: the store cannot be reached, or refuses.
    """

    url: str

    def __truediv__(self, name: str) -> Stored:
        return Stored(f"{self.url}/{name}")

    @property
    def key(self) -> str:
        """Bucket and name, as fsspec has them."""
        return self.url.partition("://")[2]

    def read(self) -> bytes | None:
        """The object's bytes, None where there is none."""
        with _asking(self.url) as files:
            try:
                content: bytes = files.cat_file(self.key)
            except FileNotFoundError:
                return None
            return content

    def write(self, content: bytes) -> None:
        """Replaces the object: readers see the old bytes or the new."""
        with _asking(self.url) as files:
            files.pipe_file(self.key, content)

    def create(self, content: bytes) -> bool:
        """Writes the object only where there is none (If-None-Match on S3, a generation of 0 on Google's store).

        Of any number of processes at once, at most one gets True. Where an answer was lost on its way, the one that
        has written it may get False.
        """
        with _asking(self.url) as files:
            try:
                files.pipe_file(self.key, content, mode="create")
            except FileExistsError:
                return False
            return True

    def exists(self) -> bool:
        with _asking(self.url) as files:
            return bool(files.exists(self.key))

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below this folder, by its name in there."""
        with _asking(self.url) as files:
            found: Mapping[str, Mapping[str, Any]] = files.find(self.key, detail=True)
        return {key.removeprefix(self.key).lstrip("/"): int(info["size"]) for key, info in found.items()}

    def upload(self, sources: Mapping[str, Path]) -> None:
        """Writes files below this folder, by their names in there."""
        with _asking(self.url) as files:
            files.put([str(path) for path in sources.values()], [f"{self.key}/{name}" for name in sources])

    def download(self, targets: Mapping[str, Path]) -> None:
        """Reads files from below this folder, by their names in there."""
        for path in targets.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        with _asking(self.url) as files:
            files.get([f"{self.key}/{name}" for name in targets], [str(path) for path in targets.values()])

    def remove(self) -> None:
        """Deletes the object, or all below the folder; nothing where there is nothing."""
        with _asking(self.url) as files:
            found = list(files.find(self.key))
            if found:
                files.rm(found)


def stored(path: Path) -> Stored | None:
    """What a path stands for on an object store; None where it stands for itself."""
    url = url_of(path)
    return None if url is None else Stored(url)


def arrow_filesystem(path: Path) -> tuple[str, Any]:
    """A folder as Ray takes it: `storage_path` and `storage_filesystem`, the latter None on a file system."""
    place = stored(path)
    if place is None:
        return str(path), None
    # Half a second to import, where only Ray's own files need it.
    from pyarrow.fs import FSSpecHandler, PyFileSystem  # noqa: PLC0415

    with _asking(place.url) as files:
        return place.key, PyFileSystem(FSSpecHandler(files))


def check_url(url: str) -> Iterator[Problem]:
    """Whether a storage path on an object store can be used by this version; asks nobody."""
    scheme, names = scheme_of(url), url.partition("://")[2].rstrip("/").split("/")
    if scheme not in PACKAGES:
        yield Problem(
            code="MS-189",
            what="runs cannot be stored there",
            where="storage_path",
            got=shown(url),
            wanted=f"a folder, or a URL that begins with {', '.join(f'{known}://' for known in PACKAGES)}",
            remedy="take one of these, or mount the file system on every node and name the folder",
        )
    elif not all(names) or any(name.startswith(".") for name in names):
        yield Problem(
            code="MS-189",
            what="the URL of the storage path names no bucket, or has an empty or hidden part",
            where="storage_path",
            got=shown(url),
            wanted=f"{scheme}://BUCKET or {scheme}://BUCKET/PREFIX, no part of it empty or with a dot at its beginning",
            remedy="correct the URL",
        )


def check_reachable(url: str) -> Iterator[Problem]:
    """Whether objects can be written, read and deleted below a URL that `check_url` has no word against."""
    package = PACKAGES[str(scheme_of(url))]
    if importlib.util.find_spec(package) is None:
        extra = "modpo[s3]" if package == "s3fs" else package
        yield Problem(
            code="MS-422",
            what=f"the package {package} is not installed, which reads and writes this store",
            where="storage_path",
            got=shown(url),
            remedy=f"pip install '{extra}', here and on every node",
        )
        return
    probe = Stored(f"{url.rstrip('/')}/modpo-probe-{uuid.uuid4().hex[:8]}")
    try:
        written = probe.create(b"probe") and probe.read() == b"probe"
        probe.remove()
    except SetupError as error:
        yield from error.problems
        return
    if not written:
        yield Problem(
            code="MS-423",
            what="the store does not return what was written to it",
            where=url,
            remedy="check the endpoint: modpo needs a store that reads what it has written",
        )


@contextmanager
def _asking(url: str) -> Iterator[Any]:
    """fsspec's filesystem of a URL. What goes wrong with it is told as one problem, whichever store it is."""
    # Only runs on object stores need it.
    import fsspec  # noqa: PLC0415

    try:
        # Listings that others have changed since must not be answered from memory.
        yield fsspec.filesystem(str(scheme_of(url)), use_listings_cache=False)
    except Exception as error:
        if is_out_of_space(error):
            raise
        raise SetupError(
            Problem(
                code="MS-423",
                what="the object store cannot be reached, or refuses",
                where=url,
                got=shown(f"{type(error).__name__}: {' '.join(str(error).split())}"),
                wanted="a bucket that this machine may read, write and delete in",
                remedy="check its name, the network, and the rights of this node's role; "
                "then run the same command again: what is finished is kept",
            )
        ) from error
