"""The desk: one actor that hands work to slots and relays what they report to whoever waits for it.

A slot is a long-lived group of workers. It leases one piece of work at a time, or points that it trains together; when
it loses a worker and comes back, it is given the same again, for as long as `failures` has it so. The desk keeps no
results: those are in the ledger and in artefacts on storage.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from modpo.config.spec import Work
from modpo.errors import TrialError, root_cause
from modpo.orchestration.failures import RESIZED, WORKERS_DIED, Failure, given_up, pause_s
from modpo.orchestration.hangs import Vigil, WorkerProcess
from modpo.orchestration.shortages import out_of_memory

CLOSED = "closed"
WAIT = "wait"
LEASE_POLL_S = 20.0
# Points that lost their workers so often together may be too many for the memory: then each goes by itself.
GROUP_ATTEMPTS = 2

State = Literal["queued", "leased", "finished", "failed"]
Event = dict[str, Any]


@dataclass
class Piece:
    """A piece of work at the desk, and every event about it in order.

    Attributes:
        losses: how often they were lost since something of it was last new on storage.
        leased_at: when a slot took it, None while none has it.
        device_seconds: how long slots have had it, times their workers.
    """

    work: Work
    state: State = "queued"
    slot: str = ""
    losses: int = 0
    leased_at: float | None = None
    device_seconds: float = 0.0
    events: list[Event] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "failed")

    def taken(self, slot: str, now: float) -> None:
        self.state, self.slot, self.leased_at = "leased", slot, now

    def left(self, state: State, now: float) -> None:
        """The slot that had it, if any, is through with it."""
        self.device_seconds, self.leased_at, self.state = self.spent(now), None, state

    def spent(self, now: float) -> float:
        """Device seconds until now."""
        running = 0.0 if self.leased_at is None else now - self.leased_at
        return self.device_seconds + running * self.work.config.resources.num_workers


class Desk:
    """Bookkeeping alone, without a word of Ray: `cluster.start_desk` makes it an actor.

    Args:
        max_slots: how many slots may be open at once.
        max_failures: how often in a row a piece may lose its workers before it has failed.
        clock: in seconds.
        sleep: how it pauses before another try; a simulation has a time of its own.
    """

    def __init__(
        self,
        max_slots: int,
        max_failures: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._max_slots, self._max_failures, self._clock, self._sleep = max_slots, max_failures, clock, sleep
        self._pieces: dict[str, Piece] = {}
        # Each entry is what one slot gets together.
        self._queue: deque[list[str]] = deque()
        self._slots: set[str] = set()
        self._useful_slots: set[str] = set()
        # Whose workers may leave for a reason that is no loss of what they hold.
        self._excused: set[str] = set()
        # Why those of a slot were lost, until they have come back or are gone for good.
        self._causes: dict[str, Failure] = {}
        self._vigil = Vigil(clock)
        self._num_opened = self._num_barren = 0
        self._closed = False
        self._abandoned: tuple[str, int] | None = None
        self._changed = asyncio.Condition()

    async def submit(self, *works: Work) -> None:
        """Queues work that one slot gets together; the same id again is the same piece, wherever it stands."""
        new = [work for work in works if work.work_id not in self._pieces]
        self._pieces |= {work.work_id: Piece(work) for work in new}
        if new:
            self._queue.append([work.work_id for work in new])
            await self._notify()
        if self._abandoned is not None:
            await self.abandon(*self._abandoned)

    async def claim_slot(self, ahead: bool = False) -> str | None:
        """A name for a new slot, where work waits that no open slot is free for; the caller must then open it.

        Args:
            ahead: open it even though no work waits yet.
        """
        busy = len({piece.slot for piece in self._pieces.values() if piece.state == "leased"})
        free = len(self._slots) - busy
        needed = ahead or len(self._queue) > free
        if self._closed or not needed or len(self._slots) >= self._max_slots:
            return None
        self._num_opened += 1
        name = f"slot-{self._num_opened}"
        self._slots.add(name)
        return name

    async def lease(self, slot: str) -> list[Work] | str:
        """The next pieces for a slot, its unfinished ones first; `WAIT` when there are none, `CLOSED` at the end."""
        self._useful_slots.add(slot)
        if again := await self._again(slot):
            return again
        # Of several slots that wake for one piece, all but the first find it taken and wait on.
        while not (self._queue or self._closed):
            if not await self._until(lambda: bool(self._queue) or self._closed, LEASE_POLL_S):
                return WAIT
        if self._closed:
            return CLOSED
        pieces = [self._pieces[work_id] for work_id in self._queue.popleft()]
        for piece in pieces:
            piece.taken(slot, self._clock())
        return [piece.work for piece in pieces]

    async def part(self, slot: str) -> None:
        """What a slot holds cannot be done together: it keeps the first piece, and the others are queued one by one.

        What happened to them together is not held against any: each has all its tries.
        """
        held = self._held_by(slot)
        for piece in held[:1]:
            piece.losses = 0
        for piece in reversed(held[1:]):
            piece.left("queued", self._clock())
            piece.slot, piece.losses = "", 0
            self._queue.appendleft([piece.work.work_id])
        self._excused.add(slot)
        await self._notify()

    async def report(self, work_id: str, event: Event) -> None:
        """Progress of a leased piece."""
        await self._record(work_id, {"kind": "progress", **event})

    async def kept(self, slot: str) -> None:
        """What a slot holds has left something new on storage: what was lost before that is made good."""
        for piece in self._held_by(slot):
            piece.losses = 0

    async def enrol(self, slot: str, worker: WorkerProcess, bound_s: float) -> None:
        """A worker of a slot begins."""
        self._vigil.enrol(slot, worker, bound_s)

    async def beat(self, slot: str, bound_s: float) -> None:
        """A worker of a slot came forward, and will again within so many seconds."""
        self._vigil.hear(slot, bound_s)

    async def hung(self, slot: str) -> list[WorkerProcess]:
        """The workers of a slot that has work and says nothing of it for too long: they are to be ended."""
        workers = self._vigil.hung(slot) if self._held_by(slot) else []
        if workers:
            cause = f"its workers were hung: nothing was heard of any for {self._vigil.silence_s(slot):.0f} s"
            self._causes.setdefault(slot, Failure("infrastructure", cause))
            # Should their end fail, they are named again.
            self._vigil.wait_on(slot)
        return workers

    async def finish(self, work_id: str, result: dict[str, Any]) -> None:
        self._pieces[work_id].left("finished", self._clock())
        await self._record(work_id, {"kind": "finished", "result": result})

    async def fail(self, work_id: str, error: str, exit_status: int) -> None:
        """An error that a retry would not cure: of input, config, numbers or code."""
        piece = self._pieces[work_id]
        piece.left("failed", self._clock())
        # Several workers come back with it, to begin anew: that is no loss of what else they hold.
        self._excused.add(piece.slot)
        await self._record(work_id, {"kind": "failed", "error": error, "exit_status": exit_status})

    async def workers_lost(self, slot: str, failure: Failure) -> None:
        """Why a slot lost its workers: who knew it first knows it best. They come back, or the slot is lost too."""
        self._causes.setdefault(slot, failure)
        self._vigil.forget(slot)

    async def excuse(self, slot: str) -> None:
        """The workers of a slot are about to be exchanged for another number of them: that is no loss."""
        self._excused.add(slot)

    async def slot_lost(self, slot: str, error: str) -> None:
        """A slot is gone for good: its work goes back to the queue, or fails when it was lost too often."""
        if slot not in self._slots:
            return
        self._slots.discard(slot)
        if slot not in self._useful_slots:
            await self._count_barren(error)
        lost = await self._held_after_loss(slot, Failure("infrastructure", error))
        for piece in lost:
            piece.left("queued", self._clock())
            piece.slot = ""
        if lost:
            self._queue.appendleft([piece.work.work_id for piece in lost])
        await self._notify()

    async def events(self, work_id: str, after: int, timeout_s: float) -> list[Event]:
        """Events of a piece beyond the first `after`, waiting for one up to `timeout_s`."""
        piece = self._pieces[work_id]
        await self._until(lambda: len(piece.events) > after, timeout_s)
        return piece.events[after:]

    async def open_slots(self) -> list[str]:
        """Names of the slots that are open, at work or not."""
        return sorted(self._slots)

    async def ping(self) -> None:
        """Answers while the run lives."""

    async def snapshot(self) -> list[dict[str, Any]]:
        """State and newest progress of every piece, for the live table."""
        return [
            {
                "work_id": work_id,
                "kind": piece.work.kind,
                "trial": piece.work.trial.model_dump() if piece.work.trial else None,
                "state": piece.state,
                "slot": piece.slot,
                "losses": piece.losses,
                "device_seconds": piece.spent(self._clock()),
                "last": next((e for e in reversed(piece.events) if e["kind"] == "progress"), None),
            }
            for work_id, piece in self._pieces.items()
        ]

    async def abandon(self, error: str, exit_status: int) -> None:
        """The run is another driver's: what is not over, or comes yet, fails for that, and all slots are sent home."""
        self._abandoned = error, exit_status
        self._queue.clear()
        for piece in [piece for piece in self._pieces.values() if not piece.is_over]:
            await self.fail(piece.work.work_id, error, exit_status)
        await self.close()

    async def close(self) -> list[str]:
        """No more work: slots that wait are sent home. Returns the names of all that are open."""
        self._closed = True
        await self._notify()
        return sorted(self._slots)

    async def _count_barren(self, error: str) -> None:
        """A slot ended before its workers asked for anything: something keeps them from starting at all."""
        self._num_barren += 1
        if self._num_barren > self._max_failures:
            for work_id in [work_id for together in self._queue for work_id in together]:
                await self.fail(work_id, f"no worker group could start: {error}", 4)
            self._queue.clear()

    async def _again(self, slot: str) -> list[Work]:
        """What a slot whose workers have come back goes on with: all that it held, or the first of it."""
        held = self._held_by(slot)
        is_elastic = any(piece.work.config.resources.min_workers for piece in held)
        held = await self._held_after_loss(slot, RESIZED if is_elastic else WORKERS_DIED)
        await self._sleep(pause_s(max((piece.losses for piece in held), default=0)))
        return [piece.work for piece in held if not piece.is_over]

    async def _held_after_loss(self, slot: str, otherwise: Failure) -> list[Piece]:
        """What a slot goes on with once the loss of its workers is counted.

        Args:
            otherwise: why they were lost, where Ray did not say.
        """
        held, failure = self._held_by(slot), self._causes.pop(slot, otherwise)
        if slot not in self._excused:
            if self._is_too_much(held, failure):
                await self.part(slot)
            else:
                for piece in held:
                    await self._lose(piece, failure)
        self._excused.discard(slot)
        return self._held_by(slot)

    async def _lose(self, piece: Piece, failure: Failure) -> None:
        """Counts a loss against a piece, and fails it where another try is not worth it."""
        if failure.kind == "preemption":
            return
        piece.losses += 1
        if failure.kind == "memory":
            problem = out_of_memory(piece.work, failure.rank, failure.cause)
            await self.fail(piece.work.work_id, root_cause(TrialError(problem)), 5)
        elif piece.losses > self._max_failures:
            await self.fail(piece.work.work_id, given_up(failure, piece.losses), failure.exit_status)

    def _is_too_much(self, held: list[Piece], failure: Failure) -> bool:
        """Whether a slot has lost its workers so often over these together that each is to be tried by itself."""
        if len(held) < 2 or failure.kind == "preemption":
            return False
        return failure.kind == "memory" or held[0].losses + 1 >= min(GROUP_ATTEMPTS, self._max_failures + 1)

    def _held_by(self, slot: str) -> list[Piece]:
        return [piece for piece in self._pieces.values() if piece.slot == slot and piece.state == "leased"]

    async def _record(self, work_id: str, event: Event) -> None:
        self._pieces[work_id].events.append(event)
        await self._notify()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition came true in time."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(condition)

        try:
            await asyncio.wait_for(wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
