"""A whole run on an object store, through the command line: killed, and resumed by a machine that has nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec import AbstractFileSystem, filesystem

from tests.object_stores import served_store
from tests.pipeline.conftest import BUSY_TIMEOUT_S, FinishedRun, Shell

pytestmark = pytest.mark.pipeline

BUCKET = "modpo-runs"
STORAGE = f"s3://{BUCKET}/some/prefix"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AbstractFileSystem]:
    with served_store(tmp_path_factory.mktemp("store") / "log"):
        files = filesystem("s3", use_listings_cache=False)
        files.mkdir(BUCKET)
        yield files


def keys(store: AbstractFileSystem, pattern: str) -> list[str]:
    """Objects of the run whose names match, without its own folder's."""
    place = f"{BUCKET}/some/prefix/small/"
    return sorted(key.removeprefix(place) for key in store.glob(place + pattern))


def killed_in_flight(shell: Shell, config: Path, store: AbstractFileSystem) -> None:
    """Starts a run and kills its driver when a vertex has a checkpoint on the store and nothing is finished."""
    with (shell.folder / "killed.log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "modpo", "run", str(config)],
            cwd=shell.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while not keys(store, "points/*/checkpoints/step_*/manifest.json"):
            assert run.poll() is None and time.monotonic() < deadline, (shell.folder / "killed.log").read_text()
            time.sleep(0.2)
        run.kill()
        run.wait()


@pytest.mark.endurance
def test_a_run_is_killed_and_resumed_by_a_machine_that_has_nothing(
    finished_run: FinishedRun, store: AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(tmp_path, BUSY_TIMEOUT_S)
    raw: dict[str, Any] = {**finished_run.raw, "storage_path": STORAGE}
    config = shell.sweep_file(raw)
    monkeypatch.setenv("MODPO_SCRATCH", str(tmp_path / "first"))
    killed_in_flight(shell, config, store)
    points = keys(store, "points/*/final/manifest.json")
    assert len(points) < 3
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setenv("MODPO_SCRATCH", str(tmp_path / "second"))
    done = shell.modpo("run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {STORAGE}/small/report/index.html" in done.stdout
    for final in sorted(finished_run.path.glob("points/*/final/adapter_model.safetensors")):
        trial_id = final.parent.parent.name
        (stored,) = keys(store, f"points/{trial_id}/final/*/adapter_model.safetensors")
        assert store.cat_file(f"{BUCKET}/some/prefix/small/{stored}") == final.read_bytes(), trial_id
    assert keys(store, "work/*") == []
    shown(shell, store, tmp_path, monkeypatch)


def shown(shell: Shell, store: AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third machine reads what the second left; a fourth call of the run has nothing to do."""
    monkeypatch.setenv("MODPO_SCRATCH", str(tmp_path / "third"))
    status = shell.modpo("status", f"{STORAGE}/small")
    assert status.returncode == 0 and status.stdout.count("finished") == 3, status.stdout + status.stderr
    for key in store.find(f"{BUCKET}/some/prefix/small/report"):
        store.rm(key)
    report = shell.modpo("report", f"{STORAGE}/small")
    assert report.returncode == 0, report.stdout + report.stderr
    assert keys(store, "report/*") == [
        f"report/{name}" for name in ("index.html", "points.csv", "points.parquet", "summary.json")
    ]
    again = shell.modpo("run", shell.folder / "sweep.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("already there, skipped") == 6
