"""On a cluster of several nodes nothing that finished is done again, whatever is lost.

One point of a finished run is trained anew and disturbed by one loss after the other; it ends with the bits of the
undisturbed run. `benchmarks/reliability` has the same losses at many more moments.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.plugin import Accept
from tests.ray.clusters import HEAD, LocalCluster, local_cluster
from tests.ray.conftest import SAVE_STEPS, STEPS, before_the_sweep, has_checkpoint, hold_bits, record, vertices

pytestmark = [pytest.mark.ray, pytest.mark.endurance]

PATIENCE_S = 300.0
POLL_S = 0.1


@dataclass(frozen=True)
class Submitted:
    """A sweep of one missing point, as jobs of one cluster after the other."""

    sweep: Path
    run: Path
    trial_id: str

    def submit(self, cluster: LocalCluster) -> str:
        """Leaves the job to the cluster and returns its id."""
        done = cluster.modpo(*self.command, "--no-wait")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def submit_and_follow(self, cluster: LocalCluster) -> tuple[int, str]:
        done = cluster.modpo(*self.command)
        return done.returncode, done.stdout + done.stderr

    def wait_for_checkpoint(self, at_least: int, job_log: Callable[[], str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not has_checkpoint(self.run, self.trial_id, at_least):
            assert time.monotonic() < deadline, job_log()
            time.sleep(POLL_S)

    @property
    def attempts(self) -> int:
        return int(record(self.run, self.trial_id)["attempts"])

    @property
    def command(self) -> tuple[str | Path, ...]:
        return "submit", self.sweep, "--set", f"storage_path={self.run.parent}"


def finished_files(run: Path) -> dict[str, bytes]:
    """Ledger, metrics and weights of the points that were there from the start."""
    folders = [run / "points" / name for name in vertices(run)]
    return {
        str(path.relative_to(run)): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_outlives_its_client_its_worker_node_its_driver_and_its_head(
    undisturbed: tuple[dict[str, Any], Path], tmp_path: Path, accept: Accept
) -> None:
    pytest.importorskip("aiohttp", reason="the Jobs API needs ray[default]: install modpo[cluster]")
    job = Submitted(*before_the_sweep(undisturbed, tmp_path))
    finished = finished_files(job.run)
    assert len(finished) > 4
    with local_cluster() as cluster:
        cluster.add_node("one", cpus=1)
        client = cluster.start_modpo(*job.command)
        job.wait_for_checkpoint(SAVE_STEPS, lambda: cluster.modpo("logs", "faults").stdout)
        client.kill()
        client.communicate()

        cluster.kill_node("one")
        cluster.add_node("two", cpus=1, wait=False)
        lost_at = steps(job)
        job.wait_for_checkpoint(lost_at + 2 * SAVE_STEPS, lambda: cluster.modpo("logs", "faults").stdout)
        assert job.attempts == 2, "the trial goes on on the other node, without its client"

        for pid in cluster.pids(HEAD, "-m modpo run"):
            os.kill(pid, signal.SIGKILL)
        again = resubmitted(job, cluster)
        lost_at = steps(job)
        job.wait_for_checkpoint(lost_at + 2 * SAVE_STEPS, lambda: cluster.modpo("logs", again).stdout)
        assert job.attempts == 3, "the same command resumes when the driver was lost"

        cluster.kill_node(HEAD)
        # The old worker node is still there, and does not know yet.
        with local_cluster() as other:
            other.add_node("three", cpus=1)
            status, output = job.submit_and_follow(other)
            assert status == 0, output
    assert job.attempts == 4, "another cluster goes on from storage alone"
    assert finished_files(job.run) == finished, "what was finished is as it was"
    hold_bits(accept, job.run, undisturbed[1], job.trial_id)
    rows = (job.run / "points" / job.trial_id / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    assert STEPS <= rows < STEPS + 3 * 2 * SAVE_STEPS, "more than a checkpoint interval was trained again after a loss"


def resubmitted(job: Submitted, cluster: LocalCluster) -> str:
    """The cluster notices by itself that the driver is gone; until then it refuses the same run."""
    cluster.wait_until(
        lambda: "FAILED" in {listed["status"] for listed in cluster.get("/api/jobs/")},
        "the lost driver was never noticed",
    )
    return job.submit(cluster)


def steps(job: Submitted) -> int:
    """Of the newest checkpoint."""
    found = (job.run / "points" / job.trial_id).glob("checkpoints/step_*/manifest.json")
    return max(int(path.parent.name[5:]) for path in found)
