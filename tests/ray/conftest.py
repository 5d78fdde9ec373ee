"""Runs that are disturbed on purpose, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.pipeline.conftest import small_sweep

PATIENCE_S = 300.0
POLL_S = 0.1

STEPS = 240
SAVE_STEPS = 5


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


@pytest.fixture(scope="session")
def undisturbed(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Two vertices and their middle, long enough to be hit in flight."""
    folder = tmp_path_factory.mktemp("undisturbed")
    raw = small_sweep(demo_world, "faults")
    raw["training"] |= {"max_steps": STEPS, "save_steps": SAVE_STEPS, "logging_steps": 1}
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    status, output = StartedRun(folder, config).wait()
    assert status == 0, output
    return raw, folder / "runs" / "faults"


def middle(run: Path) -> str:
    return next(path.name for path in (run / "points").iterdir() if path.name.startswith("vivid0.5"))


def vertices(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "points").iterdir() if not path.name.startswith("vivid0.5"))


def hold_bits(accept: Accept, run: Path, undisturbed: Path, trial_id: str) -> None:
    """The trained adapter is that of the undisturbed run, in its numbers and in every other byte."""
    found, expected = (
        each / "points" / trial_id / "final" / "adapter_model.safetensors" for each in (run, undisturbed)
    )
    accept("D5", "numbers that differ in a bit", differing(load_file(found), load_file(expected)), at_most=0)
    assert found.read_bytes() == expected.read_bytes()


def before_the_sweep(undisturbed: tuple[dict[str, Any], Path], folder: Path) -> tuple[Path, Path, str]:
    """A copy of the run as it stood when only the middle point was missing: (sweep file, run, its trial id)."""
    raw, finished = undisturbed
    run = folder / "runs" / "faults"
    shutil.copytree(finished, run)
    trial_id = middle(run)
    shutil.rmtree(run / "points" / trial_id)
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return config, run, trial_id


def has_checkpoint(run: Path, trial_id: str, at_least: int) -> bool:
    steps = [int(p.parent.name[5:]) for p in (run / "points" / trial_id).glob("checkpoints/step_*/manifest.json")]
    return bool(steps) and max(steps) >= at_least
