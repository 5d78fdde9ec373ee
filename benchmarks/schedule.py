"""A sweep on machines that come and go, event by event: no clock, no cluster, and the real desk hands out the work.

Times are minutes. What is simulated is the schedule alone: how long a piece of work takes is given. A node that is lost
takes the slots on it with it; they start again when its replacement has come, and go on from their newest checkpoint.
Writing checkpoints and moving files takes no time here.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.queues import Job, Queue
from modpo.orchestration.resources import ResourcePlan

ROUNDING = 1e-9


@dataclass(frozen=True)
class Fleet:
    """Nodes of equal size.

    Attributes:
        uptimes: of each node, how long it stays each time; a node whose numbers end stays for good.
        replacement: until a lost node is there again. It costs nothing meanwhile.
    """

    devices_per_node: int
    uptimes: tuple[Iterator[float], ...]
    replacement: float


@dataclass(frozen=True)
class Schedule:
    """What came of it: minutes until the end, and device-minutes.

    Attributes:
        held: of all nodes while they were there.
        useful: training and evaluation that counted.
        lost: training and evaluation that nodes took with them.
        starting: start-ups of worker groups, and preparations.
        num_losses: nodes lost before the end.
        num_failed: jobs that lost their workers too often.
    """

    makespan: float
    held: float
    useful: float
    lost: float
    starting: float
    num_losses: int
    num_failed: int

    @property
    def idle(self) -> float:
        return self.held - self.useful - self.lost - self.starting

    @property
    def utilisation(self) -> float:
        return self.useful / self.held


def simulate(
    stages: Sequence[Sequence[Job]],
    fleet: Fleet,
    resources: ResourcePlan,
    queue: Queue,
    *,
    start_up: float,
    reuse: bool = True,
) -> Schedule:
    """Runs the stages one after another; each begins when the one before it is over.

    Args:
        start_up: of a slot's worker group, until it asks for work.
        reuse: whether a slot works through one job after another; otherwise each has a worker group of its own.
    """
    return asyncio.run(_Simulation(stages, fleet, resources, queue, start_up, reuse).run())


@dataclass
class _Slot:
    """Workers that stand and fall together.

    Attributes:
        since: when it began what it does: to start up, or its job.
        epoch: goes up when it is lost, so that what was due does not happen.
    """

    name: str
    nodes: frozenset[int]
    missing: set[int] = field(default_factory=set)
    doing: str = "nothing"
    is_warm: bool = False
    since: float = 0.0
    epoch: int = 0
    job: Job | None = None


class _Simulation:
    def __init__(
        self,
        stages: Sequence[Sequence[Job]],
        fleet: Fleet,
        resources: ResourcePlan,
        queue: Queue,
        start_up: float,
        reuse: bool,
    ) -> None:
        self._stages, self._fleet, self._queue = deque(stages), fleet, queue
        self._start_up, self._reuse = start_up, reuse
        self._devices = resources.num_workers
        self._slots = [
            _Slot(f"slot-{number}", _nodes_of(number, self._devices, fleet)) for number in range(resources.slots)
        ]
        self._nodes = frozenset[int]().union(*(slot.nodes for slot in self._slots))
        self._away: dict[int, float] = {}
        self._trained: dict[str, float] = {}
        self._events: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._order = itertools.count()
        self._now = self._useful = self._lost = self._starting = self._absent = 0.0
        self._num_losses = self._submitted = self._finished = 0

    async def run(self) -> Schedule:
        for node in self._nodes:
            self._expect_loss(node)
        await self._open_stage()
        while not self._is_over:
            self._now, _, happen = heapq.heappop(self._events)
            await happen()
            while self._stages and self._stage_is_over:
                await self._open_stage()
        absent = self._absent + sum(self._now - since for since in self._away.values())
        per_node = self._fleet.devices_per_node
        return Schedule(
            makespan=self._now,
            held=per_node * (len(self._nodes) * self._now - absent),
            useful=self._devices * self._useful,
            lost=self._devices * self._lost,
            starting=self._devices * self._starting,
            num_losses=self._num_losses,
            num_failed=self._queue.num_failed,
        )

    @property
    def _stage_is_over(self) -> bool:
        return self._finished + self._queue.num_failed == self._submitted

    @property
    def _is_over(self) -> bool:
        return not self._stages and self._stage_is_over

    async def _open_stage(self) -> None:
        jobs = self._stages.popleft()
        self._submitted += len(jobs)
        await self._queue.submit(jobs)
        for slot in self._slots:
            if slot.doing == "nothing" and not slot.missing:
                await self._go_on(slot)

    def _at(self, delay: float, happen: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._events, (self._now + delay, next(self._order), happen))

    async def _go_on(self, slot: _Slot) -> None:
        """Asks for work, after a start-up where the workers are new."""
        slot.since = self._now
        if self._reuse and not slot.is_warm:
            self._start(slot)
            return
        slot.job = await self._queue.lease(slot.name)
        slot.doing = "nothing"
        if slot.job is None:
            return
        if slot.is_warm:
            self._work(slot)
        else:
            self._start(slot)

    def _start(self, slot: _Slot) -> None:
        slot.doing = "starting"
        self._at(self._start_up, self._unless_lost(slot, self._started))

    async def _started(self, slot: _Slot) -> None:
        self._starting += self._start_up
        slot.since, slot.is_warm = self._now, True
        if slot.job is None:
            await self._go_on(slot)
        else:
            self._work(slot)

    def _work(self, slot: _Slot) -> None:
        job = slot.job
        assert job is not None
        slot.doing = "working"
        left = job.preparation + job.training - self._trained.get(job.name, 0.0) + job.evaluation
        self._at(left, self._unless_lost(slot, self._done))

    async def _done(self, slot: _Slot) -> None:
        job = slot.job
        assert job is not None
        self._account(job, self._now - slot.since)
        await self._queue.finish(slot.name, job)
        self._finished += 1
        slot.job, slot.doing, slot.is_warm = None, "nothing", self._reuse
        if not self._is_over:
            await self._go_on(slot)

    def _account(self, job: Job, elapsed: float, *, cut: bool = False) -> float:
        """Sorts the minutes of a job's attempt by what they were good for; returns those of training that are kept."""
        before = self._trained.get(job.name, 0.0)
        prepared = min(elapsed, job.preparation)
        trained = min(elapsed - prepared, job.training - before)
        evaluated = elapsed - prepared - trained
        kept = _kept(job, before + trained) - before if cut else trained
        self._trained[job.name] = before + kept
        self._starting += prepared
        self._useful += kept + (0 if cut else evaluated)
        self._lost += trained - kept + (evaluated if cut else 0)
        return kept

    def _unless_lost(self, slot: _Slot, then: Callable[[_Slot], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        epoch = slot.epoch

        async def happen() -> None:
            if slot.epoch == epoch:
                await then(slot)

        return happen

    def _expect_loss(self, node: int) -> None:
        uptime = next(self._fleet.uptimes[node], math.inf)
        if uptime < math.inf:
            self._at(uptime, lambda: self._lose(node))

    async def _lose(self, node: int) -> None:
        self._num_losses += 1
        self._away[node] = self._now
        for slot in self._slots:
            if node in slot.nodes:
                await self._stop(slot)
                slot.missing.add(node)
        self._at(self._fleet.replacement, lambda: self._replace(node))

    async def _stop(self, slot: _Slot) -> None:
        if slot.doing == "working":
            assert slot.job is not None
            if self._account(slot.job, self._now - slot.since, cut=True):
                await self._queue.kept(slot.name)
        elif slot.doing == "starting":
            self._starting += self._now - slot.since
        slot.epoch += 1
        slot.job, slot.doing, slot.is_warm = None, "nothing", False

    async def _replace(self, node: int) -> None:
        self._absent += self._now - self._away.pop(node)
        self._expect_loss(node)
        for slot in self._slots:
            if node in slot.nodes:
                slot.missing.discard(node)
                if not slot.missing:
                    await self._go_on(slot)


def _nodes_of(slot: int, workers: int, fleet: Fleet) -> frozenset[int]:
    """Slots fill the nodes one after another."""
    return frozenset((slot * workers + worker) // fleet.devices_per_node for worker in range(workers))


def _kept(job: Job, trained: float) -> float:
    """Minutes of training that stand in a checkpoint; the end of the training is one."""
    if trained >= job.training - ROUNDING:
        return job.training
    if job.checkpoint_every == math.inf:
        return 0.0
    return math.floor(trained / job.checkpoint_every + ROUNDING) * job.checkpoint_every
