"""Sweeps as jobs of a real head node: token mode, the package shipped with the job, logs, exit statuses."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.reliability.submissions import winners_of_submissions
from modpo.config import load_config
from modpo.orchestration.job_environment import JobRequest
from modpo.orchestration.jobs import submit
from modpo.orchestration.jobs_api import connect
from modpo.orchestration.live import Watcher
from modpo.orchestration.pipeline import hold
from tests.conftest import REPOSITORY
from tests.pipeline.conftest import small_sweep
from tests.ray.clusters import LocalCluster, local_cluster

pytestmark = pytest.mark.ray

PATIENCE_S = 120.0
# Drawn: this file itself is uploaded with the checkout.
CANARY = f"hf_{secrets.token_hex(16)}"


@pytest.fixture(scope="module")
def head() -> Iterator[LocalCluster]:
    """A head node that is the whole cluster."""
    pytest.importorskip("aiohttp", reason="the Jobs API needs ray[default]: install modpo[cluster]")
    with local_cluster(cpus=2) as cluster:
        yield cluster


@dataclass(frozen=True)
class Sweep:
    """A sweep file outside of the working directory, and where its run is."""

    file: Path
    run: Path

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        return self.file, "--set", f"storage_path={self.run.parent}"


def written(world: Path, folder: Path, name: str, **changes: Any) -> Sweep:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(small_sweep(world, name) | changes), encoding="utf-8")
    return Sweep(file, folder / "runs" / name)


def test_a_submitted_sweep_ends_with_its_report_and_no_secret_of_the_shell_went_along(
    head: LocalCluster, demo_world: Path, tmp_path: Path
) -> None:
    sweep = written(demo_world, tmp_path, "job")
    done = head.modpo("submit", *sweep.arguments, HF_TOKEN=CANARY, WANDB_API_KEY=CANARY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hypervolume" in done.stdout
    assert "SUCCEEDED" in done.stderr
    assert (sweep.run / "report" / "index.html").is_file()

    told = json.dumps(head.get("/api/jobs/"))
    assert "job-" in told
    assert CANARY not in told
    files = [path for folder in (head.folder, sweep.run) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_the_lease_of_the_run_has_the_last_word_and_its_exit_status_comes_back(
    head: LocalCluster, demo_world: Path, tmp_path: Path
) -> None:
    """Another process than a job works on the run: only the job can find out."""
    sweep = written(demo_world, tmp_path, "held")
    with hold(sweep.run, load_config(sweep.file), Watcher()):
        left = head.modpo("submit", *sweep.arguments, "--no-wait")
        assert (left.returncode, left.stderr) == (0, ""), "Ray's client says nothing of its own"
        job = left.stdout.strip()
        assert re.fullmatch(r"held-[0-9a-f]{8}-1", job)
        done = head.modpo("logs", job, "--follow")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "error[MS-311]" in done.stdout


def test_a_bad_sweep_file_never_reaches_the_cluster(head: LocalCluster, demo_world: Path, tmp_path: Path) -> None:
    sweep = written(demo_world, tmp_path, "bad", objectives=small_sweep(demo_world, "bad")["objectives"][:1])
    done = head.modpo("submit", *sweep.arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error[MS-121]: a sweep needs at least two objectives" in done.stderr
    assert "bad" not in {(job["metadata"] or {}).get("modpo_run") for job in head.get("/api/jobs/")}


def test_a_job_at_work_is_not_doubled_may_be_left_alone_and_is_stopped(
    head: LocalCluster, demo_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job only sleeps: a sweep would take the cores from the commands that are looked at."""
    sweep = written(demo_world, tmp_path, "long")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, head.environment[name])
    job = submit(connect(head.jobs_address), JobRequest("long", str(sweep.run), "echo at work; sleep 600", {}, ()))

    again = head.modpo("submit", *sweep.arguments)
    assert again.returncode == 3, again.stdout + again.stderr
    assert "error[MS-313]" in again.stderr
    assert f"{job} is RUNNING" in again.stderr

    # As on a terminal: where tests run in the background, what they start ignores the signal.
    with subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "modpo", "logs", "long", "--follow"],
        cwd=REPOSITORY,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        try:
            assert follower.stdout is not None
            assert any(line == "at work\n" for line in follower.stdout)
            follower.send_signal(signal.SIGINT)
            _, said = follower.communicate(timeout=PATIENCE_S)
        finally:
            follower.kill()
    assert follower.returncode == 130, said
    assert f"detached: {job} goes on" in said

    stopped = head.modpo("stop", "long")
    assert (stopped.returncode, stopped.stdout) == (0, f"{job} STOPPED\n"), stopped.stderr
    assert "at work\n" in head.modpo("logs", job).stdout
    (row,) = [line for line in head.modpo("jobs").stdout.splitlines() if job in line]
    assert "STOPPED" in row


def test_a_wrong_token_is_refused_with_the_places_of_the_right_one(head: LocalCluster) -> None:
    refused = head.modpo("jobs", RAY_AUTH_TOKEN="of another cluster")
    assert refused.returncode == 4
    assert "error[MS-415]" in refused.stderr
    assert "RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_rays_own_submit_gives_the_error_of_a_bad_sweep_file(
    head: LocalCluster, demo_world: Path, tmp_path: Path
) -> None:
    sweep = written(demo_world, tmp_path, "raw", objectives=small_sweep(demo_world, "raw")["objectives"][:1])
    settings = REPOSITORY / "modpo" / "orchestration" / "runtime_env.yaml"
    command = ["ray", "job", "submit", "--working-dir", REPOSITORY, "--runtime-env", settings, "--"]
    done = head.run(*command, "python", "-m", "ray_jobs.sweep", sweep.file)
    assert done.returncode != 0
    assert "error[MS-121]: a sweep needs at least two objectives" in done.stdout + done.stderr
    assert "exit code 2" in done.stdout + done.stderr


def test_the_jobs_api_is_closed_to_strangers(head: LocalCluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head.jobs_address}/api/jobs/", timeout=10)
    assert refused.value.code == 401
    refused.value.close()


@pytest.mark.endurance
def test_of_ten_submissions_at_once_exactly_one_wins_and_the_next_time_again(
    head: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, head.environment[name])
    assert winners_of_submissions(head.jobs_address, str(tmp_path / "raced"), rounds=3, racers=10) == [1, 1, 1]
    raced = sorted(job["submission_id"] for job in head.get("/api/jobs/") if "raced-" in job["submission_id"])
    assert [job_id.rpartition("-")[2] for job_id in raced] == ["1", "2", "3"]
