"""Runs that are disturbed on purpose, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 300.0
POLL_S = 0.1


@dataclass
class StartedRun:
    """A `modpo run` in the background, and the processes that belong to it."""

    folder: Path
    config: Path
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modpo", "run", str(self.config)],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MODPO_DEBUG": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for a state on disk; fails when the run ends or time is up before it."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"the run ended too early:\n{self.process.communicate()[0]}"
            assert time.monotonic() < deadline, "the awaited state never came"
            time.sleep(POLL_S)

    def worker_pids(self) -> list[int]:
        """Ray Train workers below this run: found by their title and by the run's working directory in PYTHONPATH."""
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes()
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::RayTrainWorker") and f"PYTHONPATH={self.folder}".encode() in environment:
                found.append(int(process.name))
        return found

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start() -> Iterator[Callable[[Path, Path], StartedRun]]:
    """Starts runs and ends those that a failed test leaves behind."""
    runs: list[StartedRun] = []

    def begin(folder: Path, config: Path) -> StartedRun:
        runs.append(StartedRun(folder, config))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()


def record(run: Path, trial_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "points" / trial_id / "point.json").read_text(encoding="utf-8"))
    return found
