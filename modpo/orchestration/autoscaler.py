"""What an autoscaler may add to the cluster, read where the autoscaler itself reads it.

Ray's own autoscaler tells nobody its limits: on a cluster that is still without workers they are all that says how many
trials it will hold.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

logger = logging.getLogger(__name__)

# KubeRay sets these in its head pod, beside which the autoscaler runs in a container of its own.
KUBERAY_CLUSTER = "RAY_CLUSTER_NAME"
KUBERAY_SCALES = "RAY_enable_autoscaler_v2"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind that come and go with the work.

    Attributes:
        resources: of one node, as Ray names them.
        max_count: how many there may be at once.
    """

    resources: dict[str, float]
    labels: dict[str, str]
    max_count: int


def node_groups() -> tuple[NodeGroup, ...]:
    """Groups of worker nodes; none where there is no autoscaler, or where its limits cannot be seen from this process.

    They can be on the head node, where jobs run.
    """
    # Anyscale's autoscaler reports its limits to the cluster; Ray's own does not.
    reported = ray._private.state.state.get_cluster_config()
    if reported is not None and reported.node_group_configs:
        groups = reported.node_group_configs
        return tuple(NodeGroup(dict(group.resources), {}, max(0, group.max_count)) for group in groups)
    reader = _config_reader()
    return () if reader is None else worker_groups(reader.get_cached_autoscaling_config())


def worker_groups(config: Any) -> tuple[NodeGroup, ...]:
    """All groups but the head's, of Ray's own AutoscalingConfig."""
    head = config.get_head_node_type()
    return tuple(
        NodeGroup({name: float(amount) for name, amount in kind.resources.items()}, dict(kind.labels), count)
        for name, kind in config.get_node_type_configs().items()
        if name != head and (count := min(kind.max_worker_nodes, config.get_max_num_worker_nodes()))
    )


def _config_reader() -> Any:
    """Ray's reader of an autoscaler's configuration, None where no autoscaler is found."""
    if file := _file_of_autoscaler(ray.get_runtime_context().gcs_address):
        from ray.autoscaler.v2.instance_manager.config import FileConfigReader

        return FileConfigReader(file)
    cluster = os.environ.get(KUBERAY_CLUSTER)
    if not (cluster and os.environ.get(KUBERAY_SCALES) == "1" and POD_NAMESPACE.exists()):
        return None
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer
    from ray.autoscaler.v2.instance_manager.config import KubeRayConfigReader

    try:
        return KubeRayConfigReader(AutoscalingConfigProducer(cluster, POD_NAMESPACE.read_text(encoding="utf-8")))
    except OSError as error:  # the errors of requests are of this kind
        logger.warning("the limits of the autoscaler cannot be read: %s", error)
        return None


def _file_of_autoscaler(gcs_address: str) -> Path | None:
    """What `ray start --autoscaling-config` was given on this machine, as the autoscaler of this cluster shows it."""
    wanted, option = f"--gcs-address={gcs_address}", "--autoscaling-config="
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
        except OSError:
            continue
        if wanted in arguments:
            for argument in arguments:
                if argument.startswith(option):
                    # Written with ~ in cluster files, and handed on so.
                    return Path(argument.removeprefix(option)).expanduser()
    return None
