"""Two worker processes that stay, and do one task of `two_workers` after the other: starting them takes longer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 300
POLL_S = 0.01
RANKS = ("0", "1")


@dataclass
class Pair:
    """The processes, and the folder in which they leave what they did, beside `torch-extensions/` of their own.

    They start with the first task, and start anew with the first one after a failure.
    """

    run_dir: Path
    output: Path
    workers: list[subprocess.Popen[str]] = field(default_factory=list)
    performed: set[tuple[str, ...]] = field(default_factory=set)

    def do(self, *task: str) -> Path:
        """Has both processes perform a task, once a session; returns the folder of all that they ever did."""
        if task in self.performed:
            return self.output
        if not self.workers:
            self._start()
        number = len(self.performed)
        done = [self.output / f"done-{number}-{rank}" for rank in RANKS]
        for left_by_a_failure in done:
            left_by_a_failure.unlink(missing_ok=True)
        deadline = time.monotonic() + PATIENCE_S
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps([number, *task]) + "\n")
            worker.stdin.flush()
        while not all(path.exists() for path in done):
            ended = any(worker.poll() is not None for worker in self.workers)
            if ended or time.monotonic() > deadline:
                self.end()
                logs = "\n".join(self._log(rank).read_text(encoding="utf-8")[-3000:] for rank in RANKS)
                raise AssertionError(f"{' '.join(task)} {'failed' if ended else 'hangs'}:\n{logs}")
            time.sleep(POLL_S)
        self.performed.add(task)
        return self.output

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.communicate()
        self.workers = []

    def _start(self) -> None:
        extensions = self.output / "torch-extensions"
        extensions.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        shared |= {"OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": str(extensions)}
        command = [sys.executable, "-m", "tests.deepspeed.two_workers", str(self.run_dir), str(self.output)]
        for rank in RANKS:
            environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
            with self._log(rank).open("w", encoding="utf-8") as log:
                self.workers.append(
                    subprocess.Popen(
                        command,
                        cwd=REPOSITORY,
                        env=environment,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        text=True,
                    )
                )

    def _log(self, rank: str) -> Path:
        return self.output / f"log-{rank}.txt"
