"""A finished run whose files were damaged, and the same command again: what is damaged comes back, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.conftest import BUSY_TIMEOUT_S, FinishedRun, Shell

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)


def test_ledger_and_artefacts_come_back(finished_run: FinishedRun, tmp_path: Path) -> None:
    shell = Shell(tmp_path, BUSY_TIMEOUT_S)
    run = tmp_path / "runs" / "small"
    shutil.copytree(finished_run.path, run)
    points = sorted((run / "points").iterdir())
    weights = {path: (path / "final" / "adapter_model.safetensors").read_bytes() for path in points}
    for name in ("run.json", "stages.json"):
        (run / name).write_text("{", encoding="utf-8")
    (points[0] / "point.json").write_text('{"spec', encoding="utf-8")
    flip_bit(points[1] / "final" / "adapter_model.safetensors")
    (rewards,) = (run / "artifacts").glob("rewards-*")
    flip_bit(rewards / "table.parquet")
    done = shell.modpo("run", shell.sweep_file(finished_run.raw))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("warning[MS-731]") == 5
    for path, before in weights.items():
        assert (path / "final" / "adapter_model.safetensors").read_bytes() == before
    rows = {path: len((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) for path in points}
    assert set(rows.values()) == {6}, "no step was taken again: the last checkpoint has the weights"
