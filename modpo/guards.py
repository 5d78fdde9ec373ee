"""Whether this process may still write below a folder: asked before anything is kept there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
