"""Nothing that finished is done again, nothing that was lost stays lost, and one point's fault is its own.

Every test disturbs a real run on a private Ray cluster and compares it with the undisturbed one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.conftest import small_sweep
from tests.ray.conftest import StartedRun, record

pytestmark = pytest.mark.ray

Start = Callable[[Path, Path], StartedRun]

STEPS = 240
SAVE_STEPS = 5


@pytest.fixture(scope="module")
def undisturbed(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Two vertices and their middle, long enough to be hit in flight."""
    folder = tmp_path_factory.mktemp("undisturbed")
    raw = small_sweep(demo_world, "faults")
    raw["training"] |= {"max_steps": STEPS, "save_steps": SAVE_STEPS, "logging_steps": 1}
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    status, output = StartedRun(folder, config).wait()
    assert status == 0, output
    return raw, folder / "runs" / "faults"


def middle(run: Path) -> str:
    return next(path.name for path in (run / "points").iterdir() if path.name.startswith("vivid0.5"))


def vertices(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "points").iterdir() if not path.name.startswith("vivid0.5"))


def adapter(run: Path, trial_id: str) -> bytes:
    return (run / "points" / trial_id / "final" / "adapter_model.safetensors").read_bytes()


def before_the_sweep(undisturbed: tuple[dict[str, Any], Path], folder: Path) -> tuple[Path, Path, str]:
    """A copy of the run as it stood when only the middle point was missing: (sweep file, run, its trial id)."""
    raw, finished = undisturbed
    run = folder / "runs" / "faults"
    shutil.copytree(finished, run)
    trial_id = middle(run)
    shutil.rmtree(run / "points" / trial_id)
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return config, run, trial_id


def has_checkpoint(run: Path, trial_id: str, at_least: int) -> bool:
    steps = [int(p.parent.name[5:]) for p in (run / "points" / trial_id).glob("checkpoints/step_*/manifest.json")]
    return bool(steps) and max(steps) >= at_least


def test_a_killed_worker_resumes_from_its_checkpoint_with_the_same_weights(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    config, run, trial_id = before_the_sweep(undisturbed, tmp_path)
    untouched = {name: record(run, name) for name in vertices(run)}
    started = start(tmp_path, config)
    started.wait_until(lambda: has_checkpoint(run, trial_id, 2 * SAVE_STEPS))
    for pid in started.worker_pids():
        started.kill(pid)
    status, output = started.wait()
    assert status == 0, output
    resumed = record(run, trial_id)
    assert (resumed["status"], resumed["attempts"]) == ("finished", 2)
    rows = (run / "points" / trial_id / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    assert STEPS <= rows < STEPS + 2 * SAVE_STEPS, "more than one checkpoint interval was trained twice"
    assert adapter(run, trial_id) == adapter(undisturbed[1], trial_id)
    assert {name: record(run, name) for name in untouched} == untouched


def test_a_killed_driver_goes_on_with_the_same_command(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    config, run, trial_id = before_the_sweep(undisturbed, tmp_path)
    untouched = {name: record(run, name) for name in vertices(run)}
    first = start(tmp_path, config)
    first.wait_until(lambda: has_checkpoint(run, trial_id, SAVE_STEPS))
    first.process.kill()
    first.process.communicate()
    status, output = start(tmp_path, config).wait()
    assert status == 0, output
    assert record(run, trial_id)["attempts"] == 2
    assert adapter(run, trial_id) == adapter(undisturbed[1], trial_id)
    assert {name: record(run, name) for name in untouched} == untouched


def test_a_point_that_cannot_train_fails_alone_with_its_root_cause(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    """A file stands where the middle point's checkpoints belong; a fourth point is asked for beside it."""
    config, run, trial_id = before_the_sweep(undisturbed, tmp_path)
    raw = yaml.safe_load(config.read_text(encoding="utf-8"))
    raw["sweep"] = {"weights": {"list": [{"vivid": 0.5, "brief": 0.5}, {"vivid": 0.75, "brief": 0.25}]}}
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    (run / "points" / trial_id).mkdir()
    (run / "points" / trial_id / "checkpoints").write_text("in the way", encoding="utf-8")
    status, output = start(tmp_path, config).wait()
    assert status == 5, output
    assert f"error[MS-503]: trial {trial_id} failed" in output
    assert ("checkpoints" in output and "NotADirectoryError" in output) or "FileExistsError" in output
    failed = record(run, trial_id)
    assert failed["status"] == "failed" and "\n" not in failed["error"]
    others = [path.name for path in (run / "points").iterdir() if path.name.startswith("vivid0.75")]
    assert [record(run, name)["status"] for name in others] == ["finished"]
    assert (run / "report" / "index.html").is_file()


def test_two_workers_a_trial_train_the_same_point(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    """Two ranks with half the batch each are the same training: their first global batch agrees to float32 rounding.

    The start model was fine-tuned by two ranks as well, so its rounding is in the comparison.
    """
    raw, finished = undisturbed
    raw = {**raw, "name": "halves", "resources": {"num_workers": 2, "cpus_per_worker": 0.5, "max_concurrent": 1}}
    # The batch of one device is part of the run's identity: a run of its own.
    raw["training"] = {**raw["training"], "per_device_train_batch_size": 4, "max_steps": 20}
    raw["sft"] = {**raw["sft"], "per_device_train_batch_size": 4}
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    status, output = start(tmp_path, config).wait()
    assert status == 0, output
    halves, whole = first_logps(tmp_path / "runs" / "halves"), first_logps(finished)
    assert halves == pytest.approx(whole, rel=1e-4)


def first_logps(run: Path) -> float:
    """Mean log-probability of the chosen responses in the vivid vertex's first global batch, over all ranks."""
    (path,) = run.glob("points/vivid1-*/metrics.jsonl")
    row = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    return float(row["logps/chosen"])
