"""What a user sees when a worker node and then a job's driver are lost: `python -m benchmarks.reliability.transcript`.

A real head and two worker nodes on this machine, Ray's own `ray job submit`, the same command twice, and the report at
the end. What is printed is what the commands printed, with the path of the runs' storage shortened and without what Ray
says of uploads.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.reliability.base import NAME, base_sweep, write_base_world
from tests.ray.clusters import HEAD, LocalCluster, local_cluster

PATIENCE_S = 900.0
POLL_S = 0.2
SHOWN_PATH = "/mnt/modpo/runs"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Of every file that does not travel Ray says so, once for each look.
UPLOADS = re.compile(r"packaging\.py|working_dir\.py|dashboard_sdk\.py")
CHECKPOINT_EVERY = 10
STEPS = 100


class Terminal:
    """Runs commands on a cluster and prints them with what they say."""

    def __init__(self, cluster: LocalCluster, runs: Path) -> None:
        self._cluster, self._runs, self._started = cluster, runs, time.monotonic()

    def remark(self, text: str) -> None:
        print(f"\n# {time.monotonic() - self._started:.0f} s: {text}", flush=True)

    def run(self, *command: str) -> None:
        """Prints a command and its output; it may fail."""
        shown = shlex.join(command).replace(str(self._runs), SHOWN_PATH)
        print(f"\n$ {shown}", flush=True)
        done = self._cluster.run(*command, COLUMNS="120")
        said = COLOURS.sub("", done.stdout + done.stderr).replace(str(self._runs), SHOWN_PATH)
        print("\n".join(line for line in said.splitlines() if not UPLOADS.search(line)), flush=True)
        print(f"(exit status {done.returncode})", flush=True)


def main() -> None:
    with local_cluster() as cluster:
        runs = cluster.folder / "runs"
        run, terminal, file = runs / NAME, Terminal(cluster, runs), runs / "sweep.yaml"
        file.parent.mkdir()
        write_base_world(runs / "world")
        file.write_text(yaml.safe_dump(sweep_of_one_worker(runs / "world"), sort_keys=False), encoding="utf-8")
        terminal.remark("a head without processors to give away, and two worker nodes of one each")
        cluster.add_node("worker-1", cpus=1, wait=False)
        cluster.add_node("worker-2", cpus=1, wait=False)
        cluster.wait_for_nodes("worker-1", "worker-2")
        terminal.remark(f"nodes alive: {', '.join(sorted(cluster.alive()))}")

        sweep = ["python", "-m", "ray_jobs.sweep", str(file), "--set", f"storage_path={runs}"]
        submit = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env", "ray_jobs/runtime_env.yaml"]
        terminal.run(*submit, "--no-wait", "--", *sweep)

        wait(lambda: in_training(run) and len(with_status(run, "finished")) >= 1)
        terminal.run("modpo", "status", str(run))
        terminal.remark("the node worker-1 is lost: SIGKILL to all its processes")
        cluster.kill_node("worker-1")
        cluster.wait_until(lambda: "worker-1" not in cluster.alive(), "the cluster never noticed")
        terminal.remark(f"nodes alive: {', '.join(sorted(cluster.alive()))}")

        finished = len(with_status(run, "finished"))
        wait(lambda: in_training(run) and len(with_status(run, "finished")) > finished)
        terminal.run("modpo", "status", str(run))
        terminal.remark("the job's driver is lost: SIGKILL")
        for pid in cluster.pids(HEAD, "-m ray_jobs.sweep"):
            os.kill(pid, signal.SIGKILL)
        cluster.wait_until(lambda: job_states(cluster) == ["FAILED"], "the cluster never noticed")
        before = {path: path.read_bytes() for path in with_status(run, "finished")}

        terminal.remark("the same command again")
        terminal.run(*submit, "--", *sweep)
        terminal.run("modpo", "status", str(run))
        same = sum(path.read_bytes() == content for path, content in before.items())
        attempts = sorted(record["attempts"] for record in map(read, (run / "points").glob("*/point.json")))
        terminal.remark(f"{same} of {len(before)} points that were finished before are untouched; attempts: {attempts}")


def sweep_of_one_worker(world: Path) -> dict[str, Any]:
    """The base sweep, long enough to be looked at, on two nodes side by side."""
    raw = base_sweep(world, stage=0)
    raw["training"] |= {"max_steps": STEPS, "save_steps": CHECKPOINT_EVERY}
    raw["resources"] = {"points_together": 1}
    return raw


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def with_status(run: Path, status: str) -> list[Path]:
    return [path for path in (run / "points").glob("*/point.json") if read(path)["status"] == status]


def in_training(run: Path) -> bool:
    """Whether a point is in the middle of its training."""
    steps = [read(path)["step"] for path in with_status(run, "running")]
    return any(2 * CHECKPOINT_EVERY <= step <= STEPS // 2 for step in steps)


def job_states(cluster: LocalCluster) -> list[str]:
    return [job["status"] for job in cluster.get("/api/jobs/") if job["submission_id"]]


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the sweep did not come so far")
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
