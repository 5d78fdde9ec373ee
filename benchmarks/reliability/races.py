"""Drivers that race for one run: how many of them get it, round by round."""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from modpo import lease
from modpo.errors import ConflictError

BEAT_S = 0.05
PATIENCE_S = 120.0


def winners_of_leases(folder: Path, *, rounds: int, racers: int) -> list[int]:
    """How many of as many processes, let go at the same moment, got the same run; exactly one should.

    Whoever got it holds it until all others have been refused.
    """
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(racers), context.Queue()
    processes = [context.Process(target=_race_for_leases, args=(folder, rounds, barrier, won)) for _ in range(racers)]
    for process in processes:
        process.start()
    outcomes = [won.get(timeout=PATIENCE_S) for _ in range(rounds * racers)]
    for process in processes:
        process.join(PATIENCE_S)
    return [sum(has_won for number, has_won in outcomes if number == each) for each in range(rounds)]


def _race_for_leases(folder: Path, rounds: int, barrier: Barrier, won: Queue[tuple[int, bool]]) -> None:
    lease.BEAT_S = BEAT_S
    for number in range(rounds):
        barrier.wait(PATIENCE_S)
        try:
            with lease.held(folder / f"run-{number}"):
                won.put((number, True))
                barrier.wait(PATIENCE_S)
        except ConflictError as error:
            won.put((number, error.problems[0].code != "MS-311"))
            barrier.wait(PATIENCE_S)
