"""Nothing that finished is done again, nothing that was lost stays lost, and one point's fault is its own.

Every test disturbs a real run on a private Ray cluster and compares it with the undisturbed one.
"""

from __future__ import annotations

import json
import math
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
    counted, expected = resumed["training"], record(undisturbed[1], trial_id)["training"]
    assert (counted["tokens"], counted["flops"]) == (expected["tokens"], expected["flops"]), "each step counts once"


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


@pytest.mark.slow  # tests/deepspeed/two_workers.py has the numbers of two workers without Ray
def test_a_trial_of_two_workers_trains_and_measures_its_points(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    """The first step of a vertex is taken at the reference: over both ranks its loss is log 2, its margin 0."""
    raw = {**undisturbed[0], "name": "two", "resources": {"num_workers": 2, "cpus_per_worker": 0.5}}
    raw["training"] = {**raw["training"], "per_device_train_batch_size": 4, "max_steps": 20}
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    status, output = start(tmp_path, config).wait()
    assert status == 0, output
    run = tmp_path / "runs" / "two"
    for trial_id in vertices(run):
        rows = (run / "points" / trial_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        first, last = json.loads(rows[0]), json.loads(rows[-1])
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
        assert last["step"] == 20 and last["loss"] < first["loss"]
    records = [record(run, path.name) for path in (run / "points").iterdir()]
    assert [found["status"] for found in records] == ["finished"] * 3
    assert {found["result"]["num_samples"] for found in records} == {24}
