"""`ray job submit` of a sweep to a real head node: token mode, the package shipped with the job, exit codes."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.pipeline.conftest import small_sweep

pytestmark = pytest.mark.ray

GRACE_S = 5
PATIENCE_S = 120.0
JOB_S = 600


@dataclass(frozen=True)
class Head:
    """A head node of our own on this machine."""

    address: str
    environment: dict[str, str]

    def submit(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [_tool("ray"), "job", "submit", "--address", self.address, "--working-dir", str(REPOSITORY)]
        command += ["--runtime-env", str(REPOSITORY / "ray_jobs" / "runtime_env.yaml"), "--"]
        command += ["python", "-m", "ray_jobs.sweep", *map(str, arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=JOB_S, check=False)


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    pytest.importorskip("aiohttp", reason="the Jobs API needs ray[default]: install modpo[cluster]")
    # Socket paths below this folder may not be longer than 107 bytes.
    folder = tempfile.mkdtemp(prefix="modpo-head-")
    gcs, dashboard, client = (_free_port() for _ in range(3))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "MODPO_DEBUG": "1",
    }
    command = [_tool("ray"), "start", "--head", "--block", "--num-cpus=2", '--resources={"sweep_driver": 10}']
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0", f"--temp-dir={folder}"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for_jobs_api(address, environment["RAY_AUTH_TOKEN"])
        yield Head(address, environment)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            # Half a minute goes by while its agents wait for each other. Nothing of theirs is looked at any more.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_jobs_api(address: str, token: str) -> None:
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as refused:
            refused.close()
        except OSError:
            pass
        assert time.monotonic() < deadline, "the head node's Jobs API never came up"
        time.sleep(0.5)


def test_a_submitted_sweep_ends_with_its_report(head: Head, demo_world: Path, tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(small_sweep(demo_world, "job")), encoding="utf-8")
    done = head.submit(config, "--set", f"storage_path={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert (tmp_path / "runs" / "job" / "report" / "index.html").is_file()


def test_a_bad_sweep_file_fails_the_job_with_its_error(head: Head, demo_world: Path, tmp_path: Path) -> None:
    raw = small_sweep(demo_world, "job")
    raw["objectives"] = raw["objectives"][:1]
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    done = head.submit(config)
    assert done.returncode != 0
    assert "error[MS-121]: a sweep needs at least two objectives" in done.stdout + done.stderr
    assert "exit code 2" in done.stdout + done.stderr


def test_the_jobs_api_is_closed_to_strangers(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10)
    assert refused.value.code == 401
    refused.value.close()
