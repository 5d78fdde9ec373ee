"""What long work tells whoever watches over it, and asks it: one listener a process, as with logging.

Work says when it comes forward, when something of it is new on storage, and looks whether it must leave. It knows
nothing of who listens; nobody need.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")

# So many beats make a rhythm: the first ones compile kernels and fill caches.
FEWEST_GAPS = 3
REMEMBERED_GAPS = 33


class Listener(Protocol):
    """Whoever watches over the work of this process; its answers must come at once."""

    def beat(self, usual_s: float | None) -> None:
        """Work came forward; the next beat comes after `usual_s`.

        Nobody knows when where that is None: it may load a model first, or write a checkpoint.
        """

    def kept(self) -> None:
        """Something is on storage from which a lost worker would go on."""

    def must_leave(self) -> bool:
        """Whether this machine is about to be taken away."""


class LeaveError(Exception):
    """Work was left because its machine is about to be taken away; what was done is on storage."""


class Nobody:
    """Listens where work runs by itself."""

    def beat(self, usual_s: float | None) -> None:
        """Heard by nobody."""

    def kept(self) -> None:
        """Heard by nobody."""

    def must_leave(self) -> bool:
        return False


_listener: Listener = Nobody()


@contextmanager
def watched_by(listener: Listener) -> Iterator[None]:
    """Has a listener for the length of a block."""
    global _listener  # noqa: PLW0603  # one a process, by its nature
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def kept() -> None:
    """Call it after a checkpoint, or a part of a result, has been committed."""
    _listener.kept()


def rest() -> None:
    """Call it when work came forward, and what comes next may take long and says nothing meanwhile."""
    _listener.beat(None)


def must_leave() -> bool:
    """Ranks may differ in it: those that work in step must agree before they act on it."""
    return _listener.must_leave()


class Rhythm:
    """Beats of one loop, and how long it usually takes between two."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=REMEMBERED_GAPS)
        self._last: float | None = None

    def beat(self) -> None:
        """A step, a batch or the like is done."""
        now = time.monotonic()
        if self._last is not None:
            self._gaps.append(now - self._last)
        self._last = now
        _listener.beat(statistics.median(self._gaps) if len(self._gaps) >= FEWEST_GAPS else None)

    def rest(self) -> None:
        """What comes next is none of the loop's steps."""
        self._last = None
        rest()


def each(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a beat whenever whoever takes them is through with one."""
    rhythm = Rhythm()
    try:
        for item in items:
            yield item
            rhythm.beat()
    finally:
        rhythm.rest()
