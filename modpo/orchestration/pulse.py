"""How the desk hears of the work of a slot's workers: what `modpo.watch` tells in each of them."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ray

from modpo.orchestration.hangs import WorkerProcess, bound_s
from modpo.processes import start_of

STACKS_SIGNAL = signal.SIGUSR2
# Of the least bound: what is said more often than that is not passed on.
SAID_AT_MOST = 0.1


class Pulse:
    """Listens to the work of one worker, and passes on what the desk needs to know of it.

    Args:
        timeout_s: `resources.hang_timeout`.
        must_leave: whether the worker's node is about to be taken away.
    """

    def __init__(self, desk: Any, slot: str, timeout_s: float, must_leave: Callable[[], bool]) -> None:
        self._desk, self._slot, self._timeout_s, self._must_leave = desk, slot, timeout_s, must_leave
        self._said_at, self._was_quiet = float("-inf"), False

    def enrol(self, rank: int) -> None:
        """Tells the desk where this worker is, and makes its stacks to be had from outside."""
        pid, (descriptor, stacks) = os.getpid(), tempfile.mkstemp(prefix="modpo-stacks-")
        # It writes from the signal's handler itself, whatever the interpreter is stuck in. Left open for ever.
        faulthandler.register(STACKS_SIGNAL, file=descriptor, all_threads=True)
        worker = WorkerProcess(rank, ray.get_runtime_context().get_node_id(), pid, start_of(pid), stacks)
        ray.get(self._desk.enrol.remote(self._slot, worker, bound_s(None, self._timeout_s)))

    def beat(self, usual_s: float | None) -> None:
        now, is_quiet = time.monotonic(), usual_s is None
        if is_quiet == self._was_quiet and now - self._said_at < SAID_AT_MOST * self._timeout_s:
            return
        self._said_at, self._was_quiet = now, is_quiet
        # Nobody waits for an answer, here and below.
        self._desk.beat.remote(self._slot, bound_s(usual_s, self._timeout_s))

    def kept(self) -> None:
        self._desk.kept.remote(self._slot)

    def must_leave(self) -> bool:
        return self._must_leave()
