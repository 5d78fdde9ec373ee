"""Workers that die alone, hang, or whose node is taken away: the trial goes on by itself, with the same bits."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.plugin import Accept
from tests.pipeline.conftest import small_sweep
from tests.ray.clusters import local_cluster
from tests.ray.conftest import (
    SAVE_STEPS,
    STEPS,
    StartedRun,
    before_the_sweep,
    has_checkpoint,
    hold_bits,
    record,
)
from tests.sweeps import BRIEF

pytestmark = [pytest.mark.ray, pytest.mark.endurance]

Start = Callable[[Path, Path], StartedRun]
NAME = "pairs"
HANG_TIMEOUT_S = 15


def two_workers(world: Path) -> dict[str, Any]:
    """One point, of two workers, whose rewards are functions: nothing else is trained before it."""
    raw = small_sweep(
        world,
        NAME,
        resources={"num_workers": 2, "cpus_per_worker": 0.5, "hang_timeout": HANG_TIMEOUT_S, "max_failures": 1},
    )
    del raw["sft"]
    raw["objectives"][1]["reward"] = {"type": "function", "function": BRIEF}
    raw["sweep"] = {"weights": {"list": [{"vivid": 0.5, "brief": 0.5}]}}
    raw["training"] |= {
        "max_steps": 150,
        "save_steps": SAVE_STEPS,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
    }
    return raw


def test_a_trial_outlives_the_death_of_one_rank_and_another_that_hangs(
    demo_world: Path, start: Start, tmp_path: Path, accept: Accept
) -> None:
    """Only one loss in a row is allowed, so that what is new on storage after the first must be seen to count."""
    raw = two_workers(demo_world)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
        (folder / "sweep.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    status, output = start(undisturbed, undisturbed / "sweep.yaml").wait()
    assert status == 0, output
    run = disturbed / "runs" / NAME
    shutil.copytree(undisturbed / "runs" / NAME, run)
    (trial_id,) = [path.name for path in (run / "points").iterdir()]
    shutil.rmtree(run / "points")

    started = start(disturbed, disturbed / "sweep.yaml")
    started.wait_until(lambda: has_checkpoint(run, trial_id, 2 * SAVE_STEPS))
    started.kill(started.worker_pids()[-1])
    started.wait_until(lambda: record(run, trial_id)["attempts"] == 2)
    first = record(run, trial_id)["step"]
    started.wait_until(lambda: has_checkpoint(run, trial_id, first + 2 * SAVE_STEPS))
    # Between two checkpoints: how long it takes to write one is not known.
    started.wait_until(lambda: record(run, trial_id)["step"] % SAVE_STEPS == 2)
    os.kill(started.worker_pids()[-1], signal.SIGSTOP)
    status, output = started.wait()
    assert status == 0, output
    assert record(run, trial_id)["attempts"] == 3
    hold_bits(accept, run, undisturbed / "runs" / NAME, trial_id)
    (stacks,) = (run / "stacks").glob("*.txt")
    text = stacks.read_text(encoding="utf-8")
    assert [line.split(",")[0] for line in text.splitlines() if line.startswith("rank ")] == ["rank 0", "rank 1"]
    assert text.count("state T (stopped)") == 1
    assert text.count(" in train\n") == 2, "both were training, the one waiting for the other"


def test_nothing_is_lost_where_a_node_is_taken_away_with_notice(
    undisturbed: tuple[dict[str, Any], Path], tmp_path: Path, accept: Accept
) -> None:
    """Every step is logged once: none was taken twice."""
    sweep, run, trial_id = before_the_sweep(undisturbed, tmp_path)
    with local_cluster() as cluster:
        cluster.add_node("one", cpus=1)
        driver = cluster.start_modpo("run", sweep, "--set", f"storage_path={run.parent}")
        cluster.wait_until(lambda: has_checkpoint(run, trial_id, 2 * SAVE_STEPS), "no training", patience_s=300)
        # The notice takes seconds to give, and the training is over in few.
        (worker,) = cluster.pids("one", "ray::RayTrainWorker")
        os.kill(worker, signal.SIGSTOP)
        cluster.add_node("two", cpus=1)
        cluster.drain_node("one", deadline_s=60)
        os.kill(worker, signal.SIGCONT)
        cluster.wait_until(lambda: record(run, trial_id)["attempts"] == 2, "it never moved", patience_s=300)
        cluster.kill_node("one")
        output, _ = driver.communicate(timeout=300)
        assert driver.returncode == 0, output
    hold_bits(accept, run, undisturbed[1], trial_id)
    rows = (run / "points" / trial_id / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    assert rows == STEPS
