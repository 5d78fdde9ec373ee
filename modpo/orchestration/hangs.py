"""When workers that say nothing count as hung: bookkeeping alone, on the desk's clock.

A group of workers is hung when no rank of it has come forward for longer than its bound. One rank alone may be silent:
it waits for the others. A rank that is stopped silences all of them at the next collective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

USUAL_TIMES = 10
# A model is loaded, a checkpoint written, a kernel compiled: nothing can be said meanwhile.
QUIET_TIMES = 60


def bound_s(usual_s: float | None, timeout_s: float) -> float:
    """How long workers may say nothing.

    Args:
        usual_s: the median time between two signs of life, None where nobody knows when the next one comes.
        timeout_s: the least for work that goes step by step (`resources.hang_timeout`).
    """
    return QUIET_TIMES * timeout_s if usual_s is None else max(timeout_s, USUAL_TIMES * usual_s)


@dataclass(frozen=True)
class WorkerProcess:
    """Where a worker of a slot is.

    Attributes:
        started: the process's start in clock ticks since its machine's: with `pid`, nobody else.
        stacks: file of that machine which gets its stacks when it is asked for them.
    """

    rank: int
    node_id: str
    pid: int
    started: int
    stacks: str


@dataclass
class _Watched:
    workers: dict[int, WorkerProcess] = field(default_factory=dict)
    heard_at: float = 0.0
    bound_s: float = 0.0


class Vigil:
    """Who of the slots' workers has said something lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: dict[str, _Watched] = {}

    def enrol(self, slot: str, worker: WorkerProcess, bound_s: float) -> None:
        """A worker begins; rank 0 of new workers comes after all of the old ones are gone."""
        watched = self._slots.setdefault(slot, _Watched())
        watched.workers[worker.rank] = worker
        watched.heard_at, watched.bound_s = self._clock(), bound_s

    def hear(self, slot: str, bound_s: float) -> None:
        """A worker of the slot came forward; the next sign is due within `bound_s`."""
        if slot in self._slots:
            watched = self._slots[slot]
            watched.heard_at, watched.bound_s = self._clock(), bound_s

    def wait_on(self, slot: str) -> None:
        """Gives a silent slot its time once more."""
        if slot in self._slots:
            self._slots[slot].heard_at = self._clock()

    def forget(self, slot: str) -> None:
        """Its workers are gone."""
        self._slots.pop(slot, None)

    def silence_s(self, slot: str) -> float:
        """Seconds since anything was heard of a slot; 0 where it has no workers."""
        watched = self._slots.get(slot)
        return 0.0 if watched is None else self._clock() - watched.heard_at

    def hung(self, slot: str) -> list[WorkerProcess]:
        """All workers of a slot that says nothing for too long; none while it does."""
        watched = self._slots.get(slot)
        if watched is None or self.silence_s(slot) <= watched.bound_s:
            return []
        return [watched.workers[rank] for rank in sorted(watched.workers)]
