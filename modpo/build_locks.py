"""Locks of torch's extension builds whose builder is gone: every later build would wait for them, for ever.

torch creates `lock` in the build's folder, holds it open while it compiles, and removes it. A killed process leaves it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

SHARED_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "fuse.", "afs")
LONGEST_BUILD_S = 1800.0
"""Older locks are nobody's, whatever machine may have made them."""


@dataclass(frozen=True)
class BuildLock:
    """One lock file.

    Attributes:
        age_s: seconds since it was made.
        holders: processes of this machine that hold it open.
        is_shared: it lies on a file system of several machines, so a builder elsewhere is not seen from here.
    """

    path: Path
    age_s: float
    holders: tuple[int, ...]
    is_shared: bool

    @property
    def is_stale(self) -> bool:
        return not self.holders and (not self.is_shared or self.age_s > LONGEST_BUILD_S)


def extensions_dir() -> Path:
    """Where torch builds extensions on this machine."""
    own = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(own) if own else cache / "torch_extensions"


def build_locks(root: Path | None = None) -> list[BuildLock]:
    """Every lock below a folder, torch's own where none is named."""
    found = []
    for path in sorted((root or extensions_dir()).glob("**/lock")):
        # Its builder may have finished in between.
        with suppress(FileNotFoundError):
            age_s = max(0.0, time.time() - path.stat().st_mtime)
            found.append(BuildLock(path, age_s, tuple(_holders(path)), _is_shared(path)))
    return found


def remove_stale_locks(root: Path | None = None) -> list[BuildLock]:
    """Removes the locks that nobody holds, and says so; what is being built stays locked."""
    stale = [lock for lock in build_locks(root) if lock.is_stale]
    for lock in stale:
        logger.warning("removed a build lock that nobody holds, %.0f s old: %s", lock.age_s, lock.path)
        lock.path.unlink(missing_ok=True)
    return stale


def _holders(path: Path) -> Iterator[int]:
    """Processes that have a file open, as far as this user may see."""
    file = path.stat()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    opened = descriptor.stat()
                    if (opened.st_dev, opened.st_ino) == (file.st_dev, file.st_ino):
                        yield int(process.name)
                        break


def _is_shared(path: Path) -> bool:
    """By the kind of the file system that the file lies on; true where that is not known."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return True
    resolved, kinds = path.resolve(), {}
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        if resolved.is_relative_to(point.replace("\\040", " ")):
            kinds[len(point)] = kind
    return not kinds or kinds[max(kinds)].startswith(SHARED_SYSTEMS)
