"""Ends workers that are hung, each on its own node, and keeps what they were doing."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modpo.artifacts import publish
from modpo.errors import ModpoError
from modpo.orchestration.hangs import WorkerProcess
from modpo.orchestration.pulse import STACKS_SIGNAL
from modpo.processes import start_of

logger = logging.getLogger(__name__)

# A node that does not answer within this is lost, and Ray will say so itself.
NODE_PATIENCE_S = 60.0
STACKS_PATIENCE_S = 5.0
LULL_S = 0.5


def end_hung(workers: Sequence[WorkerProcess], report: Path) -> None:
    """Writes the stacks of all of them to one file, then kills them: Ray then starts others in their place."""
    stacks = _on_their_nodes(workers, stacks_of)
    parts = [
        f"rank {worker.rank}, pid {worker.pid}, node {worker.node_id}\n{text or 'its node does not answer'}\n"
        for worker, text in zip(workers, stacks, strict=True)
    ]
    # A disk that takes nothing more is no reason to leave them hanging.
    with suppress(OSError, ModpoError):
        aside = report.with_name(f".{report.name}")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text("\n".join(parts), encoding="utf-8")
        publish(aside, report)
    _on_their_nodes(workers, kill)


def stacks_of(worker: WorkerProcess) -> str:
    """State and stacks of a worker on this machine. One that is stopped goes on for a moment, to say where it is."""
    if start_of(worker.pid) != worker.started:
        return "it is gone"
    state = _state(worker.pid)
    with suppress(ProcessLookupError):
        os.kill(worker.pid, STACKS_SIGNAL)
        os.kill(worker.pid, signal.SIGCONT)
    deadline, text, before = time.monotonic() + STACKS_PATIENCE_S, "", ""
    # It writes thread by thread: what stays as it is for a moment is all of them.
    while (not text or text != before) and time.monotonic() < deadline:
        before = text
        time.sleep(LULL_S)
        text = _read(worker.stacks)
    return f"state {state}\n{text or 'it does not answer'}"


def kill(worker: WorkerProcess) -> str:
    """Ends a worker on this machine, which must be the one that it was."""
    Path(worker.stacks).unlink(missing_ok=True)
    if start_of(worker.pid) == worker.started:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
    return ""


def _on_their_nodes(workers: Sequence[WorkerProcess], do: Callable[[WorkerProcess], str]) -> list[str | None]:
    task: Any = ray.remote(num_cpus=0, max_retries=0)(do)
    waiting = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(worker.node_id, soft=False)).remote(worker)
        for worker in workers
    ]
    done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=NODE_PATIENCE_S)
    return [_answer(each) if each in done else None for each in waiting]


def _answer(done: Any) -> str | None:
    try:
        text: str = ray.get(done)
    except ray.exceptions.RayError as error:
        logger.warning("a hung worker cannot be reached: %s", error)
        return None
    return text


def _state(pid: int) -> str:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("State:"):
                return line.removeprefix("State:").strip()
    return "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
