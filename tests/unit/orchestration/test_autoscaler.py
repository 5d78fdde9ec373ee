"""What an autoscaler may add, from the very files that it is configured with; no cluster is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from modpo.config.tree import ResourcesConfig
from modpo.orchestration.autoscaler import worker_groups
from modpo.orchestration.resources import DRIVER_RESOURCE, NodeShape, plan_resources
from ray_jobs.clusters.check import as_read_by_the_autoscaler
from tests.unit.clusters.descriptions import FOUND_BY_RAY, documents


def as_the_head_has_it(repository: Path, name: str) -> dict[str, Any]:
    """A shipped cluster file as Ray's autoscaler gets it."""
    written = documents(repository, name)[0]
    if "provider" not in written:
        return as_read_by_the_autoscaler(written)
    # `ray up` asks the cloud what its machines have.
    for node_type in written["available_node_types"].values():
        node_type["resources"] = node_type["resources"] or FOUND_BY_RAY[node_type["node_config"]["InstanceType"]]
    written["cluster_synced_files"] = []
    return written


@pytest.mark.parametrize("name", ["aws", "kuberay", "rayjob"])
def test_a_cluster_that_is_still_empty_promises_a_trial_for_every_gpu_that_it_may_have(
    repository: Path, name: str
) -> None:
    groups = worker_groups(AutoscalingConfig(as_the_head_has_it(repository, name), skip_content_hash=True))
    promised = {
        (group.resources.get("GPU", 0.0), group.resources.get(DRIVER_RESOURCE, 0.0)): group.max_count
        for group in groups
    }
    assert promised == {(0.0, 16.0): 2, (1.0, 0.0): 8}, "two nodes of drivers, eight GPUs, and not the head"
    head = NodeShape(cpus=0, gpus=0)
    shapes = [
        NodeShape(
            cpus=group.resources.get("CPU", 0.0),
            gpus=group.resources.get("GPU", 0.0),
            drivers=group.resources.get(DRIVER_RESOURCE, 0.0),
        )
        for group in groups
        for _ in range(group.max_count)
    ]
    assert plan_resources(ResourcesConfig(), (head, *shapes), num_trials=100).slots == 8
