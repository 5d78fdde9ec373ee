"""A sweep whose points are trained together leaves what one leaves that trains them one after another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.pipeline.conftest import small_sweep
from tests.ray.conftest import StartedRun, record

pytestmark = pytest.mark.ray

Start = Callable[[Path, Path], StartedRun]

STEPS = 12
# Four that train on the pairs of `vivid`, and one on those of `brief`: more than the one slot.
VIVID = (0.9, 0.8, 0.7, 0.6)
WEIGHTS = [{"vivid": w, "brief": round(1 - w, 1)} for w in (*VIVID, 0.3)]


def sweep_of(world: Path, together: int | str) -> dict[str, Any]:
    raw = small_sweep(world, "groups", resources={"max_concurrent": 1, "points_together": together})
    raw["training"] |= {"max_steps": STEPS, "save_steps": 4, "logging_steps": 1}
    raw["sweep"] = {"weights": {"list": WEIGHTS}}
    return raw


def finish(start: Start, folder: Path, raw: dict[str, Any]) -> Path:
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    status, output = start(folder, config).wait()
    assert status == 0, output
    return folder / "runs" / "groups"


def rows(run: Path, trial_id: str) -> list[dict[str, Any]]:
    lines = (run / "points" / trial_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def adapter(run: Path, trial_id: str) -> torch.Tensor:
    tensors = load_file(run / "points" / trial_id / "final" / "adapter_model.safetensors")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def test_the_same_points_with_groups_and_without(start: Start, demo_world: Path, tmp_path: Path) -> None:
    """`auto` puts the four together, as the demo's model is small; whose rows have the same seconds shared a step."""
    alone = finish(start, tmp_path, sweep_of(demo_world, 1))
    points = json.loads((alone / "run.json").read_text(encoding="utf-8"))["trials"]
    other = tmp_path / "together"
    shutil.copytree(alone, other / "runs" / "groups")
    for trial_id in points:
        shutil.rmtree(other / "runs" / "groups" / "points" / trial_id)
    together = finish(start, other, sweep_of(demo_world, "auto"))
    seconds = set()
    for trial_id in points:
        single, grouped = record(alone, trial_id), record(together, trial_id)
        assert (grouped["status"], grouped["attempts"]) == ("finished", 1)
        assert (grouped["step"], grouped["num_steps"]) == (STEPS, STEPS)
        assert grouped["device_seconds"] > 0
        expected, found = adapter(alone, trial_id), adapter(together, trial_id)
        assert float((found - expected).norm() / expected.norm()) <= 1e-5
        assert [row["step"] for row in rows(together, trial_id)] == list(range(1, STEPS + 1))
        for row, other_row in zip(rows(together, trial_id), rows(alone, trial_id), strict=True):
            assert row.keys() == other_row.keys()
            assert row["loss"] == pytest.approx(other_row["loss"], rel=1e-5)
        seconds.add(tuple(row["perf/step_s"] for row in rows(together, trial_id)))
        assert grouped["result"]["num_samples"] == single["result"]["num_samples"]
    assert len(seconds) == 2, "the four took their steps together, and the fifth alone"
    results = {path.parent.name for path in (together / "tune" / "sweep").glob("*/result.json")}
    assert results == set(points)
