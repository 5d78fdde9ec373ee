"""Submissions that race for one run: how many of them a cluster takes, round by round."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modpo.errors import ConflictError
from modpo.orchestration.job_environment import JobRequest
from modpo.orchestration.jobs import find_job, stop, submit
from modpo.orchestration.jobs_api import connect

PATIENCE_S = 120.0
AT_WORK = "sleep 600"


def winners_of_submissions(address: str, run_path: str, *, rounds: int, racers: int) -> list[int]:
    """How many of as many submissions of one run, sent at the same moment, a cluster took; exactly one should.

    Between rounds the job that won is stopped: the next round is that of a run that is resumed.

    Args:
        address: of a Jobs API; its token is where Ray's client looks for it.

    Raises:
        AssertionError: one that lost was not told which job to follow.
    """
    return [_winners(address, run_path, racers) for _ in range(rounds)]


def _winners(address: str, run_path: str, racers: int) -> int:
    request = JobRequest(Path(run_path).name, run_path, AT_WORK, {}, ())
    barrier = threading.Barrier(racers)

    def race(_: int) -> tuple[bool, str]:
        client = connect(address)
        barrier.wait(PATIENCE_S)
        try:
            return True, submit(client, request)
        except ConflictError as error:
            return False, error.problems[0].got

    with ThreadPoolExecutor(racers) as pool:
        outcomes = list(pool.map(race, range(racers)))
    taken = [job_id for won, job_id in outcomes if won]
    assert all(got.startswith(f"{taken[0]} is ") for won, got in outcomes if not won), outcomes
    client = connect(address)
    for job_id in taken:
        stop(client, find_job(client, job_id))
    return len(taken)
