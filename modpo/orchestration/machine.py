"""What this machine has, without starting anything."""

from __future__ import annotations

import os
from pathlib import Path

from modpo.orchestration.resources import NodeShape

# A private cluster marks its only node as a place for drivers, so that they leave the cores to the workers.
LOCAL_DRIVERS = 1000.0


def local_nodes() -> tuple[NodeShape, ...]:
    """This machine as a cluster of one node: the processors this process may use, and its NVIDIA GPUs."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (NodeShape(cpus=float(cpus), gpus=float(_num_gpus()), drivers=LOCAL_DRIVERS),)


def _num_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
