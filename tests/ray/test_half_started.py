"""Ray Train on a private cluster that has room for one group of workers: a lost start must give that room back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

PATIENCE_S = 240
# All processors but one are taken, so that a second group of two halves finds room only where the first has left it.
SCRIPT = """
import os, signal, sys
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from modpo.orchestration.cluster import connected
from modpo.orchestration.half_started import HalfStarted

folder = Path(sys.argv[1])

class LosesOne(WorkerGroupCallback):
    '''Kills a worker when all have come up and before they are given work, and has the controller notice there.'''

    def after_worker_group_start(self, worker_group):
        tried = folder / "tried"
        if tried.exists():
            return
        tried.touch()
        worker = worker_group.get_workers()[0]
        os.kill(worker.metadata.pid, signal.SIGKILL)
        ray.get(worker.actor.get_metadata.remote())

def train():
    (folder / f"trained-{ray.train.get_context().get_world_rank()}").touch()

with connected():
    taken = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"] - 1}])
    ray.get(taken.ready())
    TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(
            name="half", storage_path=str(folder / "storage"), callbacks=[HalfStarted(), LosesOne()]
        ),
    ).fit()
"""


def test_a_worker_that_is_lost_while_its_group_starts_takes_no_room_with_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert process.returncode == 0, output
    assert (tmp_path / "tried").exists()
    assert sorted(path.name for path in tmp_path.glob("trained-*")) == ["trained-0", "trained-1"]
