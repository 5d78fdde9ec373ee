"""Storage that takes no more, told as one problem whichever library met it."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modpo.errors import Problem, SetupError, cut, escaped

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
# Writers in Rust say it in words alone.
OUT_OF_SPACE_TEXT = re.compile(rf"os error ({'|'.join(map(str, sorted(OUT_OF_SPACE)))})\b")


def is_out_of_space(error: BaseException) -> bool:
    """Whether a disk is full, a quota used up, or a file system read-only."""
    return getattr(error, "errno", None) in OUT_OF_SPACE or OUT_OF_SPACE_TEXT.search(str(error)) is not None


def out_of_space(error: BaseException, folder: Path, *, needed: str = "") -> Problem:
    """Nothing more can be written in a folder; says how much is free, and how much was needed where that is known."""
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path("/"))
    usage = shutil.disk_usage(there)
    return Problem(
        code="MS-421",
        what="the storage takes no more",
        where=str(folder),
        got=f"{cut(escaped(str(error)))}; {usage.free} of {usage.total} bytes free",
        wanted=needed,
        remedy="make room, or mend quota or permissions, then run the same command again: nothing half is kept, and "
        "what was there is whole",
    )


@contextmanager
def room_for(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Tells of a disk that is full what is written, where, and how much room there is.

    Args:
        needed: bytes that are to be written, where that is known.

    Raises:
        SetupError: it is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SetupError) or not is_out_of_space(error):
            raise
        raise SetupError(out_of_space(error, folder, needed="" if needed is None else f"{needed} bytes")) from error
