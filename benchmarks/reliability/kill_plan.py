"""Which process is killed in which phase of which sweep, as a pure function of a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice, zip_longest

from benchmarks.reliability.base import POINTS, SAVE_STEPS, STEPS


class Victim(StrEnum):
    """What is killed. After the loss of the last four the same command is given again."""

    RANK_0 = "worker, rank 0"
    RANK_1 = "worker, rank 1 of 2"
    GROUP = "all workers of a trial"
    SLOT = "driver of the workers"
    CONTROLLER = "Ray Train's controller"
    TRIAL = "Tune trial"
    DESK = "desk"
    RAYLET = "raylet"
    DRIVER = "driver"
    MACHINE = "head with everything"


class Phase(StrEnum):
    """When, in the order of a run; those of points come once a point."""

    START = "start"
    REFERENCE = "annotating, reference"
    REWARDS = "annotating, rewards"
    STEP = "in a step"
    SAVE = "saving a checkpoint"
    SAVED = "after a checkpoint"
    FINAL = "saving the final weights"
    EVALUATE = "evaluating"
    REPORT = "report"


WORKERS = (Victim.RANK_0, Victim.RANK_1, Victim.GROUP)
OF_POINTS = (Phase.STEP, Phase.SAVE, Phase.SAVED, Phase.FINAL, Phase.EVALUATE)
GIVEN_AGAIN = (Victim.DESK, Victim.RAYLET, Victim.DRIVER, Victim.MACHINE)
_WITH_WORKERS = (Phase.START, Phase.REFERENCE, Phase.REWARDS, *OF_POINTS)
CELLS: dict[Victim, tuple[Phase, ...]] = {
    Victim.RANK_0: _WITH_WORKERS,
    Victim.RANK_1: _WITH_WORKERS,
    Victim.GROUP: _WITH_WORKERS,
    Victim.SLOT: (Phase.REFERENCE, Phase.STEP, Phase.SAVE, Phase.FINAL, Phase.EVALUATE),
    Victim.CONTROLLER: (Phase.REFERENCE, Phase.STEP, Phase.SAVE, Phase.EVALUATE),
    Victim.TRIAL: (Phase.STEP, Phase.SAVE, Phase.FINAL, Phase.EVALUATE),
    Victim.DESK: (Phase.REFERENCE, Phase.STEP, Phase.SAVE, Phase.EVALUATE),
    Victim.RAYLET: (Phase.REFERENCE, Phase.STEP, Phase.SAVE, Phase.EVALUATE),
    Victim.DRIVER: (*_WITH_WORKERS, Phase.REPORT),
    Victim.MACHINE: (Phase.REFERENCE, Phase.STEP, Phase.SAVE, Phase.SAVED, Phase.FINAL, Phase.EVALUATE),
}
"""All that can meet: 60 pairs. A Tune trial is there while a point is, workers and desk until the report begins."""

SIGNALS = ("SIGKILL", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM")
"""What workers die of; everything else dies of SIGKILL."""
ENDS = 2
"""Points that are trained before the others, as vertices; they are evaluated with the others."""


@dataclass(frozen=True)
class Kill:
    """One kill: whom, in which phase, by which signal.

    Attributes:
        point: of phases that come once a point: which one, in the order of training.
        step: of phases of a training: not before this one.
    """

    number: int
    victim: Victim
    phase: Phase
    signal: str = "SIGKILL"
    point: int = 0
    step: int = 0

    def __str__(self) -> str:
        where = f", point {self.point}" if self.phase in OF_POINTS else ""
        return f"{self.number}: {self.victim} ({self.signal}), {self.phase}{where}"


def plan_kills(count: int, *, seed: int, sweeps: int) -> list[list[Kill]]:
    """Kills for each sweep. The first ten have ten different victims; with 60, every pair of `CELLS` comes once."""
    generator = random.Random(seed)
    plan: list[list[Kill]] = [[] for _ in range(sweeps)]
    for number, (victim, phase) in enumerate(islice(cycle(_cells(generator)), count)):
        sweep = plan[number % sweeps]
        sweep.append(
            Kill(
                number,
                victim,
                phase,
                signal=generator.choice(SIGNALS) if victim in WORKERS else "SIGKILL",
                point=_point(sweep, phase, generator),
                step=_step(phase, generator),
            )
        )
    return plan


def _cells(generator: random.Random) -> list[tuple[Victim, Phase]]:
    """Every pair once: one of each victim, then the next of each, both in random order."""
    by_victim = [[(victim, phase) for phase in generator.sample(CELLS[victim], len(CELLS[victim]))] for victim in CELLS]
    generator.shuffle(by_victim)
    return list(_interleaved(by_victim))


def _interleaved(rows: Sequence[Sequence[tuple[Victim, Phase]]]) -> Iterator[tuple[Victim, Phase]]:
    return (cell for column in zip_longest(*rows) for cell in column if cell is not None)


def _point(sweep: Sequence[Kill], phase: Phase, generator: random.Random) -> int:
    """One of those that are hit least so far: a trial may lose its workers three times, and all are to be hit."""
    hits = Counter(kill.point for kill in sweep if kill.phase in OF_POINTS)
    allowed = range(ENDS, POINTS) if phase is Phase.EVALUATE else range(POINTS)
    fewest = min(hits[point] for point in allowed)
    return generator.choice([point for point in allowed if hits[point] == fewest])


def _step(phase: Phase, generator: random.Random) -> int:
    """Early enough that another step or save comes after it; in a step never the one before a checkpoint."""
    if phase is Phase.STEP:
        return generator.choice([step for step in range(1, STEPS) if step % SAVE_STEPS])
    return generator.randrange(SAVE_STEPS, STEPS - SAVE_STEPS + 1, SAVE_STEPS)
