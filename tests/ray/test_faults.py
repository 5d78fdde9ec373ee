"""Nothing that finished is done again, nothing that was lost stays lost, and one point's fault is its own.

Every test disturbs a real run on a private Ray cluster and compares it with the undisturbed one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from modpo.config import parse_config
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from modpo.orchestration.session import Session
from modpo.orchestration.stages import RunState
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import worst_relative
from tests.deepspeed.whole_sweeps import InProcess
from tests.ray.conftest import (
    SAVE_STEPS,
    STEPS,
    StartedRun,
    before_the_sweep,
    has_checkpoint,
    hold_bits,
    middle,
    record,
    vertices,
)

pytestmark = pytest.mark.ray

Start = Callable[[Path, Path], StartedRun]


def losses(run: Path, trial_id: str) -> list[float]:
    """As the workers of a trial logged them, step by step."""
    rows = (run / "points" / trial_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(row)["loss"] for row in rows]


def plain_losses(raw: dict[str, Any], run: Path, place: Path, *, num_steps: int) -> dict[str, list[float]]:
    """Losses of the same trainings by one worker in this process, without Ray, from the tables of the run: by trial.

    Rates follow the schedule of the whole training; it ends after these steps.
    """
    config = parse_config(raw)
    size = config.training.per_device_train_batch_size * config.resources.num_workers
    whole = config.model_copy(
        update={
            "training": config.training.model_copy(update={"per_device_train_batch_size": size}),
            "resources": config.resources.model_copy(update={"num_workers": 1}),
        }
    )
    state = RunState(config, run, plan_sweep(config, load_inputs(config)[1]), cast(Session, InProcess()))
    found: dict[str, list[float]] = {}
    for trial in {trial.trial_id: trial for trial in (*state.plan.points, *state.plan.vertices.values())}.values():
        found[trial.trial_id] = []

        def record(progress: Progress, losses: list[float] = found[trial.trial_id]) -> bool:
            losses.append(progress.metrics["loss"])
            return progress.step == num_steps

        work = state.work("point", trial.trial_id, trial)
        train_point(work.model_copy(update={"run_dir": str(place), "config": whole}), hooks=[Hook(1, record)])
    return found


def test_a_trial_under_ray_has_the_losses_of_a_plain_process(
    undisturbed: tuple[dict[str, Any], Path], one_worker: None, tmp_path: Path, accept: Accept
) -> None:
    """The first twenty steps of two vertices and of the point between them."""
    raw, run = undisturbed
    plain = plain_losses(raw, run, tmp_path, num_steps=20)
    assert sorted(plain) == sorted([*vertices(run), middle(run)])
    for trial_id, expected in plain.items():
        difference = worst_relative(losses(run, trial_id)[:20], expected)
        accept("D3", "relative difference of the losses", difference, at_most=1e-5)


def test_a_killed_worker_resumes_from_its_checkpoint_with_the_same_weights(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path, accept: Accept
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
    hold_bits(accept, run, undisturbed[1], trial_id)
    assert {name: record(run, name) for name in untouched} == untouched
    counted, expected = resumed["training"], record(undisturbed[1], trial_id)["training"]
    assert (counted["tokens"], counted["flops"]) == (expected["tokens"], expected["flops"]), "each step counts once"


@pytest.mark.endurance  # so do the seeded kills
def test_a_killed_driver_goes_on_with_the_same_command(
    undisturbed: tuple[dict[str, Any], Path], start: Start, tmp_path: Path, accept: Accept
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
    hold_bits(accept, run, undisturbed[1], trial_id)
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


@pytest.mark.endurance  # tests/deepspeed/two_workers.py has the numbers of two workers without Ray
def test_a_trial_of_two_workers_trains_and_measures_its_points(
    undisturbed: tuple[dict[str, Any], Path], start: Start, one_worker: None, tmp_path: Path, accept: Accept
) -> None:
    """All its losses are those of one worker in this process.

    The first step of a vertex is taken at the reference: over both ranks its loss is log 2, its margin 0.
    """
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
    for trial_id, expected in plain_losses(raw, run, tmp_path / "plain", num_steps=20).items():
        difference = worst_relative(losses(run, trial_id), expected)
        accept("D3", "relative difference of the losses", difference, at_most=1e-5)
    records = [record(run, path.name) for path in (run / "points").iterdir()]
    assert [found["status"] for found in records] == ["finished"] * 3
    assert {found["result"]["num_samples"] for found in records} == {24}
