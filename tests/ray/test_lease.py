"""Two drivers of one sweep on Ray: the first is stopped, the second takes the run over, the first comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import small_sweep

pytestmark = [pytest.mark.ray, pytest.mark.endurance]

PATIENCE_S = 500.0
TAKEOVER_S = 6.0
# The command line with another patience; half a minute is too long for a test.
MODPO = (
    f"import sys; from modpo import lease; lease.TAKEOVER_S = {TAKEOVER_S}; "
    "from modpo.cli import main; main(sys.argv[1:])"
)


def drive(folder: Path, config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MODPO, "run", str(config)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kept(run: Path) -> dict[str, tuple[float, bytes]]:
    """Everything of a run with its time of change, but for what Ray keeps for itself."""
    files = (
        path for path in run.rglob("*") if path.is_file() and path.relative_to(run).parts[0] not in ("tune", "train")
    )
    return {str(path.relative_to(run)): (path.stat().st_mtime, path.read_bytes()) for path in files}


def test_a_driver_that_was_stopped_ends_without_a_trace_once_another_has_finished_its_run(
    demo_world: Path, tmp_path: Path
) -> None:
    raw = small_sweep(demo_world, "twice")
    raw["training"] |= {"max_steps": 24, "logging_steps": 1}
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    run = tmp_path / "runs" / "twice"
    first = drive(tmp_path, config)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not any(run.glob("points/*/checkpoints/step_*/manifest.json")):
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
            time.sleep(0.1)
        first.send_signal(signal.SIGSTOP)

        second = drive(tmp_path, config)
        said, _ = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 0, said
        assert f"process {first.pid} on " in said
        assert "for a sign of life before taking it over" in said
        left = kept(run)

        first.send_signal(signal.SIGCONT)
        said, _ = first.communicate(timeout=PATIENCE_S)
    finally:
        first.kill()
    assert first.returncode == 3, said
    assert "error[MS-314]: another driver has taken this run over" in said
    assert kept(run) == left
