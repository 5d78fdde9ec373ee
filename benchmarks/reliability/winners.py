"""Races for one run: of any number of drivers, and of any number of submissions, exactly one may get it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.figures import Figure, Measured, Options
from benchmarks.reliability.races import winners_of_leases
from benchmarks.reliability.submissions import winners_of_submissions
from tests.ray.clusters import local_cluster

ROUNDS = 20
DRIVERS = 8
SUBMISSIONS = 10


def measure(options: Options) -> Measured:
    """Races of drivers for a folder, then of submissions on a real head node, whose Jobs API decides."""
    drivers = winners_of_leases(options.folder, rounds=ROUNDS, racers=DRIVERS)
    options.say(f"{ROUNDS} races of {DRIVERS} drivers")
    submissions = _of_submissions(options.folder)
    options.say(f"{ROUNDS} races of {SUBMISSIONS} submissions")
    return Measured(
        {
            "driver races with exactly one winner": Figure(drivers.count(1), ROUNDS, "at least"),
            "submit races with exactly one winner": Figure(submissions.count(1), ROUNDS, "at least"),
        },
        [
            {"round": number, "winners_of_drivers": driver, "winners_of_submissions": submission}
            for number, (driver, submission) in enumerate(zip(drivers, submissions, strict=True))
        ],
    )


def _of_submissions(folder: Path) -> list[int]:
    with local_cluster() as cluster, _environment(cluster.environment):
        return winners_of_submissions(cluster.jobs_address, str(folder / "raced"), rounds=ROUNDS, racers=SUBMISSIONS)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Ray's client finds its token there, and nowhere else."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in wanted.items() if name.startswith("RAY_")})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
