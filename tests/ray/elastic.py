"""A trial of two workers on two nodes of one core each, of which one is lost and, if there is time, one comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from safetensors.torch import load_file

from modpo.config import parse_config
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from modpo.orchestration.session import Session
from modpo.orchestration.stages import RunState
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from tests.deepspeed.trainings import flat
from tests.deepspeed.whole_sweeps import InProcess
from tests.pipeline.conftest import small_sweep
from tests.ray.clusters import LocalCluster

SAVE_STEPS = 5
PATIENCE_S = 240.0
SETTINGS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8"}
WORKER = "ray::RayTrainWorker"


@dataclass(frozen=True)
class ElasticRun:
    """What came of it beside the same training by one worker in this process.

    Attributes:
        workers: how many there were, in the order of the changes.
        losses: largest difference of the losses in nats, of every step, taken once or twice.
        distance: relative L2 distance of the weights at the end.
        repeated: steps that were taken twice.
    """

    workers: list[int]
    losses: float
    distance: float
    repeated: int
    attempts: int


def elastic_sweep(world: Path, folder: Path, *, steps: int) -> Path:
    """One point, whose trial asks for two workers and is content with one. Returns the sweep file."""
    raw = small_sweep(world, "elastic", resources={"num_workers": 2, "min_workers": 1})
    raw["storage_path"] = str(folder / "runs")
    raw["objectives"][1]["reward"] = {"type": "function", "function": "modpo.data.demo.rewards:brief"}
    raw["training"] |= {"max_steps": steps, "save_steps": SAVE_STEPS, "logging_steps": 1}
    raw["training"] |= {"per_device_train_batch_size": 4}
    raw["sweep"] = {"weights": {"list": [{"vivid": 0.5, "brief": 0.5}]}}
    del raw["sft"]
    config = folder / "sweep.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return config


def lose_a_node(cluster: LocalCluster, config: Path, *, comes_back: bool) -> ElasticRun:
    """Runs the sweep on a cluster that has a head alone, and disturbs it."""
    run = config.parent / "runs" / "elastic"
    for name in ("one", "two"):
        cluster.add_node(name, cpus=1, wait=name == "two")
    command = cluster.start_modpo("run", config, **SETTINGS)
    try:
        counts = [_wait_for(cluster, run, ("one", "two"), num_workers=2, beyond=SAVE_STEPS)]
        cluster.kill_node("two")
        counts.append(_wait_for(cluster, run, ("one",), num_workers=1, beyond=_last_checkpoint(run)))
        if comes_back:
            cluster.add_node("three", cpus=1)
            counts.append(_wait_for(cluster, run, ("one", "three"), num_workers=2, beyond=_last_checkpoint(run)))
        output, _ = command.communicate(timeout=PATIENCE_S)
        assert command.returncode == 0, output
    finally:
        command.kill()
        command.communicate()
    return _against_one_worker(config, run, counts)


def _wait_for(cluster: LocalCluster, run: Path, nodes: Sequence[str], *, num_workers: int, beyond: int) -> int:
    """Returns when so many workers on these nodes have left a checkpoint of a later step."""

    def there() -> bool:
        found = sum(len(cluster.pids(node, WORKER)) for node in nodes)
        return found == num_workers and _last_checkpoint(run) > beyond

    cluster.wait_until(there, f"{num_workers} workers never trained on", patience_s=PATIENCE_S)
    return num_workers


def _last_checkpoint(run: Path) -> int:
    found = run.glob("points/*/checkpoints/step_*/manifest.json")
    return max((int(path.parent.name.removeprefix("step_")) for path in found), default=0)


def _against_one_worker(config_file: Path, run: Path, workers: list[int]) -> ElasticRun:
    config = parse_config(yaml.safe_load(config_file.read_text(encoding="utf-8")))
    state = RunState(config, run, plan_sweep(config, load_inputs(config)[1]), cast(Session, InProcess()))
    (trial,) = state.plan.points
    losses: list[float] = []

    def record(progress: Progress) -> bool:
        losses.append(progress.metrics["loss"])
        return False

    alone = run.parent / "alone"
    work = state.work("point", trial.trial_id, trial).model_copy(update={"run_dir": str(alone)})
    train_point(work, hooks=[Hook(1, record)])
    final = Path("points") / trial.trial_id / "final" / "adapter_model.safetensors"
    found, expected = (flat(load_file(folder / final)) for folder in (run, alone))
    lines = (run / "points" / trial.trial_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {row["step"] for row in rows} == set(range(1, len(losses) + 1))
    record_of_point = json.loads((run / "points" / trial.trial_id / "point.json").read_text(encoding="utf-8"))
    return ElasticRun(
        workers=workers,
        losses=max(abs(row["loss"] - losses[row["step"] - 1]) for row in rows),
        distance=float((found - expected).norm() / expected.norm()),
        repeated=len(rows) - len(losses),
        attempts=record_of_point["attempts"],
    )
