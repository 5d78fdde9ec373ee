"""torch.distributed for a plain process: a group of one, where nobody (Ray Train, torchrun) has made one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Uses the group that exists, or makes one from torchrun's environment, or a group of this process alone."""
    if dist.is_initialized():
        yield
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    is_alone = "RANK" not in os.environ
    has_local_rank = "LOCAL_RANK" in os.environ
    if not is_alone:
        dist.init_process_group(backend)
    else:
        # DeepSpeed reads its local rank from the environment.
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group(
            backend,
            store=dist.HashStore(),  # type: ignore[attr-defined]  # torch exports it at run time
            rank=0,
            world_size=1,
        )
    try:
        yield
    finally:
        dist.destroy_process_group()
        if is_alone and not has_local_rank:
            # Other libraries take it for a sign that other ranks are there.
            del os.environ["LOCAL_RANK"]


def barrier() -> None:
    """Waits for all ranks; nothing to wait for in a group of one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def from_rank_zero(value: T) -> T:
    """Rank 0's value on every rank: what looks at a disk or a clock is asked of one rank alone."""
    holder: list[T] = [value]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(holder, src=0)
    return holder[0]


def from_every_rank(value: T) -> list[T]:
    """Each rank's value in the order of the ranks, on every rank."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_any_rank(flag: bool) -> bool:
    """Whether any rank says so; every rank must ask."""
    return any(from_every_rank(flag))
