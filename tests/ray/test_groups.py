"""A sweep whose points are trained together: what it leaves, and what it loses with its workers."""

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

from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.pipeline.conftest import small_sweep
from tests.ray.conftest import StartedRun, record

pytestmark = pytest.mark.ray

Start = Callable[[Path, Path], StartedRun]

STEPS, SAVE_STEPS = 120, 30
# Four that train on the pairs of `vivid`, and one on those of `brief`: more than the one slot.
VIVID = (0.9, 0.8, 0.7, 0.6)
WEIGHTS = [{"vivid": w, "brief": round(1 - w, 1)} for w in (*VIVID, 0.3)]


def sweep_of(world: Path, together: int | str) -> dict[str, Any]:
    raw = small_sweep(world, "groups", resources={"max_concurrent": 1, "points_together": together})
    raw["training"] |= {"max_steps": STEPS, "save_steps": SAVE_STEPS, "logging_steps": 1, "learning_rate": 5e-4}
    raw["sweep"] = {"weights": {"list": WEIGHTS}}
    return raw


def begin(start: Start, folder: Path, raw: dict[str, Any]) -> tuple[StartedRun, Path]:
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return start(folder, config), folder / "runs" / "groups"


@pytest.fixture(scope="module")
def grouped(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which `auto` put the four points of `vivid` together, as the demo's model is small."""
    started, run = begin(StartedRun, tmp_path_factory.mktemp("grouped"), sweep_of(demo_world, "auto"))
    status, output = started.wait()
    assert status == 0, output
    return run


def before_the_sweep(grouped: Path, folder: Path) -> None:
    """A copy of the run as it stood when none of its points was trained."""
    run = folder / "runs" / "groups"
    shutil.copytree(grouped, run)
    for trial_id in points(run):
        shutil.rmtree(run / "points" / trial_id)


def points(run: Path) -> list[str]:
    found: list[str] = json.loads((run / "run.json").read_text(encoding="utf-8"))["trials"]
    return found


def rows(run: Path, trial_id: str) -> list[dict[str, Any]]:
    lines = (run / "points" / trial_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def tensors(run: Path, trial_id: str) -> dict[str, torch.Tensor]:
    return load_file(run / "points" / trial_id / "final" / "adapter_model.safetensors")


def adapter(run: Path, trial_id: str) -> torch.Tensor:
    found = tensors(run, trial_id)
    return torch.cat([found[name].double().flatten() for name in sorted(found)])


def has_checkpoint(run: Path, trial_id: str) -> bool:
    return bool(list((run / "points" / trial_id).glob("checkpoints/step_*/manifest.json")))


def test_every_point_is_finished_and_the_four_took_their_steps_together(grouped: Path) -> None:
    for trial_id in points(grouped):
        found = record(grouped, trial_id)
        assert (found["status"], found["attempts"], found["step"]) == ("finished", 1, STEPS)
        assert found["device_seconds"] > 0 and found["result"]["num_samples"] == 24
        assert [row["step"] for row in rows(grouped, trial_id)] == list(range(1, STEPS + 1))
    clocks = [tuple(row["perf/step_s"] for row in rows(grouped, trial_id)) for trial_id in points(grouped)]
    assert sorted(clocks.count(clock) for clock in clocks) == [1, 4, 4, 4, 4]
    results = {path.parent.name for path in (grouped / "tune" / "sweep").glob("*/result.json")}
    assert results == set(points(grouped))


@pytest.mark.endurance  # tests/deepspeed/test_cotraining.py has the same without Ray
def test_trained_one_after_another_they_are_the_same(
    grouped: Path, start: Start, demo_world: Path, tmp_path: Path
) -> None:
    before_the_sweep(grouped, tmp_path)
    started, alone = begin(start, tmp_path, sweep_of(demo_world, 1))
    status, output = started.wait()
    assert status == 0, output
    for trial_id in points(grouped):
        expected, found = adapter(alone, trial_id), adapter(grouped, trial_id)
        difference = float((found - expected).norm() / expected.norm())
        print(f"{trial_id}: adapters differ by {difference:.1e}")
        assert difference <= 1e-5
        for row, other_row in zip(rows(grouped, trial_id), rows(alone, trial_id), strict=True):
            assert row.keys() == other_row.keys()
            assert row["loss"] == pytest.approx(other_row["loss"], rel=1e-5)


@pytest.mark.slow  # tests/deepspeed/test_cotraining.py has the same without Ray
def test_a_group_that_loses_its_workers_goes_on_with_the_same_weights(
    grouped: Path, start: Start, demo_world: Path, tmp_path: Path, accept: Accept
) -> None:
    before_the_sweep(grouped, tmp_path)
    started, run = begin(start, tmp_path, sweep_of(demo_world, "auto"))
    together = [trial_id for trial_id in points(grouped) if not trial_id.startswith("vivid0.3")]
    started.wait_until(lambda: all(has_checkpoint(run, trial_id) for trial_id in together))
    for pid in started.worker_pids():
        started.kill(pid)
    status, output = started.wait()
    assert status == 0, output
    for trial_id in together:
        assert (record(run, trial_id)["status"], record(run, trial_id)["attempts"]) == ("finished", 2)
        assert len(rows(run, trial_id)) < STEPS + SAVE_STEPS, "more than one checkpoint interval was trained twice"
        different = differing(tensors(run, trial_id), tensors(grouped, trial_id))
        accept("D5", "numbers that differ in a bit", different, at_most=0)
