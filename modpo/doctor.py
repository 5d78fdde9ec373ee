"""What this machine has and lacks for a sweep: looked at, never changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from modpo.build_locks import build_locks
from modpo.orchestration.machine import local_nodes
from modpo.orchestration.resources import HELPER_GIB_PER_TRIAL

PACKAGES = ("ray", "torch", "deepspeed", "transformers", "peft", "datasets", "moocore")
OPTIONAL_PACKAGES = ("bitsandbytes", "wandb", "mlflow", "trl")
LOW_DISK_GIB = 10


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `broken` means that no sweep can run here."""

    verdict: Literal["fine", "note", "broken"]
    what: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order of importance."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_packages, _machine, _memory, _disk, _threads, _build_locks)
    return [finding for check in checks for finding in check()]


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("fine", name, version(name))
        except PackageNotFoundError:
            yield Finding("broken", name, "not installed", "pip install modpo")
    for name in OPTIONAL_PACKAGES:
        try:
            yield Finding("fine", name, version(name))
        except PackageNotFoundError:
            yield Finding("note", name, "not installed", "only needed for its own feature")


def _machine() -> Iterator[Finding]:
    (node,) = local_nodes()
    yield Finding("fine", "processors", f"{node.cpus:g}: up to {node.cpus:g} trials of one worker at once")
    if node.gpus:
        yield Finding("fine", "GPUs", f"{node.gpus:g}")
    else:
        yield Finding("note", "GPUs", "none", "small models train on the CPU; set RAY_ADDRESS for a cluster")
    address = os.environ.get("RAY_ADDRESS")
    yield Finding("fine", "cluster", address or "none: a private Ray is started on this machine for each run")


def _memory() -> Iterator[Finding]:
    if not Path("/proc/meminfo").exists():
        return
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    gib = int(lines["MemAvailable"].split()[0]) / 2**20
    trials = int(gib / (2 * HELPER_GIB_PER_TRIAL))
    verdict: Literal["fine", "note"] = "fine" if trials >= 2 else "note"
    yield Finding(verdict, "memory", f"{gib:.1f} GiB free: room for the processes of about {trials} small trials")


def _disk() -> Iterator[Finding]:
    gib = shutil.disk_usage(Path.cwd()).free / 2**30
    if gib < LOW_DISK_GIB:
        yield Finding("note", "disk", f"{gib:.1f} GiB free", "choose a storage_path with more room")
    else:
        yield Finding("fine", "disk", f"{gib:.0f} GiB free")


def _threads() -> Iterator[Finding]:
    threads = os.environ.get("OMP_NUM_THREADS")
    yield Finding("fine", "OMP_NUM_THREADS", threads or "unset: workers get 1, since two busy pools slow each other")


def _build_locks() -> Iterator[Finding]:
    for lock in build_locks():
        found = f"{lock.path}, {lock.age_s / 60:.0f} min old"
        if lock.is_stale:
            remedy = f"workers remove it when they start; before other programs build: rm {lock.path}"
            yield Finding("note", "stale build lock", f"{found}, held by nobody", remedy)
        elif lock.holders:
            yield Finding("fine", "a build that goes on", f"{found}, held by process {lock.holders[0]}")
        else:
            yield Finding("note", "build lock", f"{found}, held by nobody here", "look for a build on other machines")
