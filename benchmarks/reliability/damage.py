"""What can become of a file that was whole: each of these in place, without a word of what the file is for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

HOLE_BYTES = 4096

Damage = Callable[[Path, Path], None]
"""(file, the same file of another step or run)."""


def truncated(path: Path, other: Path) -> None:
    """Its second half is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def bit_flipped(path: Path, other: Path) -> None:
    """One bit in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def holed(path: Path, other: Path) -> None:
    """A block of zeros in its middle, as a lost page leaves it; at most half of a small file."""
    content = bytearray(path.read_bytes())
    size = min(HOLE_BYTES, len(content) // 2)
    start = (len(content) - size) // 2
    content[start : start + size] = bytes(size)
    path.write_bytes(bytes(content))


def missing(path: Path, other: Path) -> None:
    path.unlink()


def swapped(path: Path, other: Path) -> None:
    """The whole file of another step or run stands in its place."""
    shutil.copyfile(other, path)


OF_A_FILE: dict[str, Damage] = {
    "truncated": truncated,
    "emptied": emptied,
    "one bit flipped": bit_flipped,
    "4 KiB of zeros": holed,
    "missing": missing,
    "another's": swapped,
}


def spoil(path: Path, other: Path, damage: Damage) -> None:
    """Applies a damage, and sees that it is one.

    Raises:
        ValueError: the bytes are what they were.
    """
    before = path.read_bytes()
    damage(path, other)
    if path.exists() and path.read_bytes() == before:
        raise ValueError(f"{damage.__name__} leaves {path} as it was")
