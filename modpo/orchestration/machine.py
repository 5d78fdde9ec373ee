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
    gpus = _num_gpus()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        NodeShape(
            cpus=float(cpus),
            gpus=float(gpus),
            drivers=LOCAL_DRIVERS,
            gpu_gib=_gpu_gib() if gpus else None,
            memory_gib=memory,
        ),
    )


def _num_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _gpu_gib() -> float | None:
    """Memory of the smallest GPU that torch sees."""
    # It takes a second to import, and only a machine with GPUs needs asking.
    import torch

    devices = range(torch.cuda.device_count())
    return min((torch.cuda.get_device_properties(device).total_memory / 2**30 for device in devices), default=None)
