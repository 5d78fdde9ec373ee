"""Worker nodes come with the first trial and go when idle: a real autoscaler, which starts nodes on this machine.

Its node provider is the one that Ray tests itself with. `ray.cluster_utils.AutoscalingCluster` would be shorter, but
ends every Ray on the machine when it starts.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import small_sweep
from tests.ray.clusters import LocalCluster, no_cluster

pytestmark = [pytest.mark.ray, pytest.mark.endurance]

WORKER = "cpu_worker"
IDLE_S = 6
HEAD_ID = "f" * 51 + "00000"
AUTOSCALER = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
}

COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "head_start_ray_commands",
    "worker_setup_commands",
    "worker_start_ray_commands",
)


def written(cluster: LocalCluster) -> Path:
    """A file as `ray up` leaves it on the head: drivers on the head, workers from 0 to 2."""
    path = cluster.folder / "autoscaling.yaml"
    config = {
        "cluster_name": "modpo",
        "max_workers": 2,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "gcs_address": cluster.address,
            "head_node_id": HEAD_ID,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0, "sweep_driver": 10}, "node_config": {}, "max_workers": 0},
            WORKER: {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    # Ray fills these in for the clouds that it knows.
    config |= {name: [] for name in COMMANDS} | {"auth": {}, "file_mounts": {}, "cluster_synced_files": []}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@dataclass
class Counts:
    """How many worker nodes were alive, over time."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def course(self) -> list[int]:
        return [count for count, _ in groupby(count for _, count in self.samples)]


@contextmanager
def counted(cluster: LocalCluster) -> Iterator[Counts]:
    """Looks at the nodes for the length of a block."""
    counts, over, started = Counts(), threading.Event(), time.monotonic()

    def count() -> None:
        while not over.wait(0.5):
            alive = sum(not node["is_head_node"] for node in cluster.nodes())
            counts.samples.append((time.monotonic() - started, alive))

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def moved(log: str, verb: str) -> int:
    """How many worker nodes the autoscaler says to have added or removed."""
    return sum(int(found) for found in re.findall(rf"{verb} (\d+) node(?:\(s\)|s) of type {WORKER}\b", log))


def test_the_trials_of_a_run_take_the_workers_from_none_to_two_and_their_end_back_to_none(
    demo_world: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp", reason="the state API needs ray[default]: install modpo[cluster]")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(small_sweep(demo_world, "scaled")), encoding="utf-8")
    with no_cluster() as cluster:
        cluster.start_head(f"--autoscaling-config={written(cluster)}", settings=AUTOSCALER)
        with counted(cluster) as counts:
            done = cluster.modpo("run", sweep, "--set", f"storage_path={tmp_path / 'runs'}")
            assert done.returncode == 0, done.stdout + done.stderr
            cluster.wait_until(lambda: counts.samples[-1][1] == 0, "idle workers stay")
        # Not by `session_latest`, a link to the same.
        (monitor,) = cluster.folder.glob("*-head/session_2*/logs/monitor.log")
        log = monitor.read_text(encoding="utf-8")
    for count, samples in groupby(counts.samples, key=lambda sample: sample[1]):
        print(f"{next(samples)[0]:6.1f} s  {count} worker nodes")
    print(*re.findall(r"^.*(?:event_logger|instance_manager|node_provider).*$", log, re.MULTILINE), sep="\n")
    # Nodes may join and leave one after the other.
    assert [count for count in counts.course if count != 1] == [0, 2, 0], counts.course
    assert (moved(log, "Adding"), moved(log, "Removing")) == (2, 2), log
    assert "(idle)" in log
