"""A base run in which processes are killed, and how it compares with the undisturbed one."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.reliability.base import STEPS, Command, Run
from benchmarks.reliability.figures import Say
from benchmarks.reliability.kill_plan import GIVEN_AGAIN, Kill, Phase, Victim
from benchmarks.reliability.moments import reached
from benchmarks.reliability.processes import Processes, frozen, is_alive, look, send

POLL_S = 0.001
LOOK_S = 0.25
PATIENCE_S = 300.0
"""Of a run that takes a minute: how long it may go without a kill, a point that ends or its own end."""
LASTING = (Phase.START, Phase.EVALUATE, Phase.REPORT)
"""Phases that go on after the loss of their workers: others do the same work, and may be killed at it again."""

Standing = dict[str, tuple[int, int, str]]
"""Attempts, rows of metrics and weights of every point that is trained."""


@dataclass(frozen=True)
class Hit:
    """A kill that was carried out.

    Attributes:
        command: how many times the command had been given by then.
        trained: what was trained by then.
    """

    kill: Kill
    command: int
    trained: Standing


@dataclass(frozen=True)
class Disturbed:
    """A sweep after its kills.

    Attributes:
        failed: why it did not end well; empty if it did.
        slipped: kills whose moment did not come, or passed too quickly.
    """

    run: Run
    hits: list[Hit]
    slipped: list[Kill]
    commands: int
    failed: str = ""

    def survived(self, hit: Hit) -> bool:
        """A run that went on to the next kill, or to its end, has survived this one."""
        return not self.failed or hit is not self.hits[-1]

    def trained_again(self) -> int:
        """Points that were trained at a kill, and after it had a step, an attempt or weights that they had not had."""
        now = standing(self.run)
        return sum(now.get(trial_id) != before for hit in self.hits[-1:] for trial_id, before in hit.trained.items())

    def lost_steps(self) -> int:
        """The most steps that one loss caused to be taken again."""
        return max((lost for trial_id in self.run.trial_ids for lost in resumptions(self.run, trial_id)), default=0)

    def differing_weights(self, undisturbed: Run) -> list[str]:
        return [t for t in self.run.trial_ids if self.run.weights(t) != undisturbed.weights(t)]

    def differing_steps(self, undisturbed: Run) -> int:
        """Steps of which any taking had another loss: other rows, another order or other weights; or none at all."""
        count = 0
        for trial_id in self.run.trial_ids:
            expected, found = dict(undisturbed.losses(trial_id)), self.run.losses(trial_id)
            wrong = {step for step, loss in found if loss != expected.get(step)}
            count += len(wrong | (set(range(1, STEPS + 1)) - {step for step, _ in found}))
        return count

    def differing_measurements(self, undisturbed: Run) -> list[str]:
        return [
            t for t in self.run.trial_ids if self.run.record(t).get("result") != undisturbed.record(t).get("result")
        ]


def standing(run: Run) -> Standing:
    return {
        trial_id: (run.record(trial_id)["attempts"], len(run.losses(trial_id)), run.weights(trial_id))
        for trial_id in run.trial_ids
        if run.is_trained(trial_id)
    }


def resumptions(run: Run, trial_id: str) -> list[int]:
    """Of each time that a point went on from a checkpoint: how many of its logged steps it took again."""
    steps = [step for step, _ in run.losses(trial_id)]
    return [before - step + 1 for before, step in pairwise(steps) if step <= before]


def disturb(run: Run, kills: Sequence[Kill], say: Say) -> Disturbed:
    """Gives the command, kills, gives it again where that is all that is left to do, and waits for the end."""
    hunt = _Hunt(run, list(kills), say)
    command = Command(run.folder, 1)
    try:
        while True:
            try:
                hit = hunt.next_hit(command)
            except TimeoutError as error:
                return hunt.end(command, str(error))
            if hit is not None:
                say(f"  killed {hit.kill}")
            elif command.process.returncode == 0:
                return hunt.end(command)
            elif hunt.may_be_given_again(command):
                command = Command(run.folder, command.number + 1)
            else:
                return hunt.end(command, f"exit status {command.process.returncode}:\n{command.said()}")
    finally:
        command.end()


@dataclass
class _Hunt:
    """Kills that wait for their moment."""

    run: Run
    pending: list[Kill]
    say: Say
    hits: list[Hit] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def next_hit(self, command: Command) -> Hit | None:
        """Waits for the next kill that could be carried out; None when the command has ended before.

        Raises:
            TimeoutError: nothing happens any more.
        """
        processes, looked_at, moved_at, trained = look(command), time.monotonic(), time.monotonic(), -1
        while command.process.poll() is None:
            now = time.monotonic()
            if now - looked_at > LOOK_S:
                processes, looked_at = look(command), now
                if (count := sum(map(self.run.is_trained, self._trials()))) != trained:
                    trained, moved_at = count, now
            if now - moved_at > PATIENCE_S:
                raise TimeoutError(f"nothing happened for {PATIENCE_S:g} s:\n{command.said()}")
            if (hit := self._try_all(command, processes)) is not None:
                return hit
            time.sleep(POLL_S)
        return None

    def may_be_given_again(self, command: Command) -> bool:
        """Whether this command lost what it cannot do without."""
        return any(hit.command == command.number and hit.kill.victim in GIVEN_AGAIN for hit in self.hits)

    def end(self, command: Command, failed: str = "") -> Disturbed:
        return Disturbed(self.run, self.hits, self.pending, command.number, failed)

    def _trials(self) -> tuple[str, ...]:
        return self.run.trial_ids if (self.run.path / "run.json").is_file() else ()

    def _try_all(self, command: Command, processes: Processes) -> Hit | None:
        for kill in self.pending:
            is_due = self._sign(kill, processes) is not None
            if is_due and (hit := self._carry_out(kill, command, processes)) is not None:
                return hit
        return None

    def _carry_out(self, kill: Kill, command: Command, processes: Processes) -> Hit | None:
        """Stops whoever writes, at once, looks again, and kills if the run is still in the phase."""
        victims = processes.of(kill.victim)
        with frozen({*processes.workers, *victims}):
            if not all(map(is_alive, victims)) or self._sign(kill, processes) is None:
                return None
            self.seen |= self._all_signs(processes)
            hit = Hit(kill, command.number, standing(self.run))
            send(victims, signal.Signals[kill.signal])
        self.pending.remove(kill)
        self.hits.append(hit)
        if kill.victim in (Victim.DRIVER, Victim.MACHINE):
            command.process.wait()
        return hit

    def _sign(self, kill: Kill, processes: Processes) -> str | None:
        """A sign of the kill's phase that no earlier kill has seen, where its victim is there."""
        sign = reached(kill, self.run)
        if sign is None or sign in self.seen:
            return None
        victims = processes.of(kill.victim)
        if not victims or (kill.phase in LASTING and f"{sign} {victims}" in self.seen):
            return None
        return f"{sign} {victims}" if kill.phase in LASTING else sign

    def _all_signs(self, processes: Processes) -> set[str]:
        """What shows now, for every kill that waits: a later one must see something new."""
        return {sign for kill in self.pending if (sign := self._sign(kill, processes)) is not None}
