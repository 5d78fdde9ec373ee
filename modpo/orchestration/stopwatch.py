"""Device seconds of a point: what earlier attempts took, and what this one has taken so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from modpo.ledger import PointRecord
from modpo.training.loop import Hook, Progress


@dataclass
class Stopwatch:
    """Runs from its creation.

    Args:
        earlier: the point as earlier attempts left it, None where there was none.
        devices: whose time is taken: those that work on this point, or its part of them where they work on several.
        clock: in seconds.
    """

    earlier: PointRecord | None
    devices: float
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _evaluating: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Counts a block as evaluation."""
        since = self.clock()
        try:
            yield
        finally:
            self._evaluating += self.clock() - since

    def counted_as_evaluation(self, hook: Hook) -> Hook:
        """The same hook, whose time is evaluation's."""

        def run(progress: Progress) -> bool:
            with self.evaluating():
                return hook.run(progress)

        return Hook(hook.every, run)

    def spent(self) -> dict[str, float]:
        """The ledger's device seconds until now, by name."""
        earlier = self.earlier
        return {
            "device_seconds": (earlier.device_seconds if earlier else 0.0)
            + self.devices * (self.clock() - self._started),
            "evaluation_device_seconds": (earlier.evaluation_device_seconds if earlier else 0.0)
            + self.devices * self._evaluating,
        }
