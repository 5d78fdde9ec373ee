"""Who works on what in a simulated sweep: the desk of a real run, or a loop over weights for each slot."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from modpo.config.spec import Work
from modpo.orchestration.desk import Desk

# The desk lets a slot wait for work in real time; in a simulated one, work that is not there at once is not there.
A_MOMENT_S = 0.001


@dataclass(frozen=True)
class Job:
    """One piece of work: preparation, training with checkpoints, evaluation.

    Attributes:
        preparation: done again at every start, such as loading the model.
        checkpoint_every: minutes of training; what was trained since the newest checkpoint is lost with a node.
        evaluation: after the training, which it does not lose; itself it is lost as a whole.
    """

    name: str
    preparation: float
    training: float
    checkpoint_every: float
    evaluation: float

    @property
    def useful(self) -> float:
        return self.training + self.evaluation


class Queue(Protocol):
    """Who works on what."""

    async def submit(self, jobs: Sequence[Job]) -> None: ...
    async def lease(self, slot: str) -> Job | None:
        """The job that the slot held when it was lost, or the next one; None where there is none."""
        ...

    async def kept(self, slot: str) -> None:
        """What the slot holds has a new checkpoint."""
        ...

    async def finish(self, slot: str, job: Job) -> None: ...
    @property
    def num_failed(self) -> int: ...


class DeskQueue:
    """The desk of a real run: slots share one queue, and work that lost its workers too often has failed.

    Its pauses between two tries, of a minute at most, are left out.
    """

    def __init__(self, works: Callable[[str], Work], *, num_slots: int, max_failures: int) -> None:
        self._desk = Desk(num_slots, max_failures, sleep=_at_once)
        self._works = works
        self._jobs: dict[str, Job] = {}
        self._held: dict[str, Job] = {}
        self._waiting = 0
        self.num_failed = 0

    async def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._jobs[job.name] = job
            self._waiting += 1
            await self._desk.submit(self._works(job.name))

    async def lease(self, slot: str) -> Job | None:
        held = self._held.pop(slot, None)
        if held is None and not self._waiting:
            return None
        try:
            leased = await asyncio.wait_for(self._desk.lease(slot), A_MOMENT_S)
            job = self._jobs[leased[0].work_id] if isinstance(leased, list) else None
        except TimeoutError:
            job = None
        if job is not None:
            self._held[slot] = job
        if job is not held:
            self.num_failed += held is not None
            self._waiting -= job is not None
        return job

    async def kept(self, slot: str) -> None:
        await self._desk.kept(slot)

    async def finish(self, slot: str, job: Job) -> None:
        del self._held[slot]
        await self._desk.finish(job.name, {})


class ShellLoops:
    """A loop over weights for each slot, every one with its own part of the list, cut before anything is known."""

    num_failed = 0

    def __init__(self, num_slots: int) -> None:
        self._slots = [f"slot-{number}" for number in range(num_slots)]
        self._lists: dict[str, deque[Job]] = {slot: deque() for slot in self._slots}

    async def submit(self, jobs: Sequence[Job]) -> None:
        for job, slot in zip(jobs, itertools.cycle(self._slots), strict=False):
            self._lists[slot].append(job)

    async def lease(self, slot: str) -> Job | None:
        return self._lists[slot][0] if self._lists[slot] else None

    async def kept(self, slot: str) -> None:
        """A loop counts no losses."""

    async def finish(self, slot: str, job: Job) -> None:
        assert self._lists[slot].popleft() is job


async def _at_once(_: float) -> None:
    """A pause that the simulation does not take."""
