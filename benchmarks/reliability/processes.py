"""The processes of one command and of the private cluster that it started, by what they do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import tree
from benchmarks.reliability.base import COMMAND, Command
from benchmarks.reliability.kill_plan import Victim

TITLES = {
    Victim.SLOT: "ray::Slot",
    Victim.CONTROLLER: "ray::TrainController",
    Victim.TRIAL: "ray::ImplicitFunc",
    Victim.DESK: "ray::Desk",
    Victim.RAYLET: "raylet/raylet ",
}
WORKER_TITLE = "ray::RayTrainWorker"
HEAD_TITLE = "gcs/gcs_server "
LOGS = "--log_dir="
RANK = "Setting up process group for: env:// [rank="
"""As Ray Train's own log of each worker has it: `... [rank=1, world_size=2]`."""


@dataclass(frozen=True)
class Processes:
    """A look at what runs: the command itself, and all that stands below it.

    Attributes:
        titles: of every process of the private cluster, by its id.
    """

    driver: int
    titles: dict[int, str]

    @property
    def workers(self) -> tuple[int, ...]:
        return self._titled(WORKER_TITLE)

    def of(self, victim: Victim) -> tuple[int, ...]:
        """Which processes a victim is made of; none where it is not there, or not whole."""
        if victim is Victim.DRIVER:
            return (self.driver,)
        if victim is Victim.MACHINE:
            return (self.driver, *self.titles)
        if victim in TITLES:
            return self._titled(TITLES[victim])
        ranks = self._ranks()
        if victim is Victim.GROUP:
            return tuple(ranks.values()) if len(ranks) == 2 else ()
        rank = 0 if victim is Victim.RANK_0 else 1
        return (ranks[rank],) if rank in ranks else ()

    def _titled(self, title: str) -> tuple[int, ...]:
        return tuple(process for process, found in self.titles.items() if title in found)

    def _ranks(self) -> dict[int, int]:
        """Workers that live, by rank."""
        found: dict[int, int] = {}
        for path in self._logs().glob("train/ray-train-sys-worker-*.log"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # The last line may be half written.
                with suppress(ValueError, KeyError):
                    if RANK in line and (entry := json.loads(line))["process"] in self.workers:
                        found[int(entry["message"].split(RANK)[1].split(",")[0])] = entry["process"]
        return found

    def _logs(self) -> Path:
        heads = [title for title in self.titles.values() if HEAD_TITLE in title]
        if not heads:
            return Path(os.devnull)
        return Path(heads[0].split(LOGS)[1].split()[0])


def look(command: Command) -> Processes:
    """Reads /proc: every process below the command, and others that have its mark in their environment."""
    mark = f"{COMMAND}={command.tag}".encode()
    below = set(tree(command.process.pid)) - {command.process.pid}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        # It may have ended meanwhile, or be another user's.
        with suppress(OSError):
            is_ours = process in below or mark in (folder / "environ").read_bytes().split(b"\0")
            if is_ours and process != command.process.pid:
                titles[process] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return Processes(command.process.pid, titles)


def is_alive(process: int) -> bool:
    """Whether it is there, and not only waits for its parent."""
    try:
        status = (Path("/proc") / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def send(processes: Iterable[int], number: signal.Signals) -> None:
    """One after another, without a pause; those that have ended are passed over."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@contextmanager
def frozen(processes: Iterable[int]) -> Iterator[None]:
    """Stops processes for the length of a block, so that what is on disk stays as it is seen."""
    held = tuple(processes)
    send(held, signal.SIGSTOP)
    try:
        yield
    finally:
        send(held, signal.SIGCONT)
