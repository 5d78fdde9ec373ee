"""Sweeps as Ray jobs: submitted, followed, listed and stopped through Ray's JobSubmissionClient."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modpo.artifacts import digest_of
from modpo.errors import ConflictError, InputError, Problem, SetupError, closest, shown
from modpo.orchestration.job_environment import JobRequest
from modpo.orchestration.jobs_api import answering, last_line

# Under these keys Ray keeps with a job which run it is.
RUN_KEY = "modpo_run"
RUN_PATH_KEY = "modpo_run_path"

NO_AGENT = "No available agent to submit job"
TAKEN = re.compile(r"Job with submission_id \S+ already exists")
AGENT_PATIENCE_S = 60.0
"""A node's agent takes so long to start."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0

STOP_PATIENCE_S = 60.0
LOST_PATIENCE_S = 60.0
SILENCE_S = 60.0
"""Then the log is asked for anew: a tunnel that died may never say so."""
POLL_S = 0.5
LARGEST_STATUS = 255
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """A job of modpo as the cluster knows it.

    Attributes:
        job_id: Ray's submission id: the run's name, a digest of its folder, and which of its jobs it is.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        exit_status: of the job's own process; None where it has none (yet).
        message: what Ray says about it.
    """

    job_id: str
    run: str
    run_path: str
    status: str
    started: datetime | None
    ended: datetime | None
    exit_status: int | None
    message: str

    @property
    def is_over(self) -> bool:
        return self.status not in ("PENDING", "RUNNING")


def submit(
    client: Any, request: JobRequest, *, patience_s: float = AGENT_PATIENCE_S, pause_s: float = FIRST_PAUSE_S
) -> str:
    """Hands a job to the cluster and returns its id; what it does is left to the cluster.

    Of several at once exactly one wins: all come to the same id, and Ray takes an id once.

    Raises:
        ConflictError: a job of the same run is there and not over.
        SetupError: the cluster does not take it.
    """
    deadline, asked = time.monotonic() + patience_s, ""
    while True:
        job_id = _free_job_id(client, request)
        try:
            with answering(client.get_address()):
                _submit_when_there_is_an_agent(client, request, job_id, deadline=deadline, pause_s=pause_s)
        except SetupError as error:
            # Another one was faster: its job is in the way like any, unless it is over already.
            if not TAKEN.search(str(error.__cause__)) or job_id == asked:
                raise
            asked = job_id
        else:
            return job_id


def _free_job_id(client: Any, request: JobRequest) -> str:
    """The id that the next job of a run gets.

    Raises:
        ConflictError: a job of the run is not over.
    """
    jobs = [job for job in list_jobs(client) if job.run_path == request.run_path]
    for job in jobs:
        if not job.is_over:
            raise ConflictError(_same_run(job))
    return next_job_id(request.run, request.run_path, [job.job_id for job in jobs])


def next_job_id(run: str, run_path: str, earlier: Collection[str]) -> str:
    """Readable, the same for everybody who asks about the same jobs, and another one than theirs."""
    stem = f"{run}-{digest_of(run_path)[:8]}-"
    numbers = [job_id.removeprefix(stem) for job_id in earlier if job_id.startswith(stem)]
    return f"{stem}{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}"


def _submit_when_there_is_an_agent(
    client: Any, request: JobRequest, job_id: str, *, deadline: float, pause_s: float
) -> None:
    while True:
        try:
            client.submit_job(
                entrypoint=request.entrypoint,
                submission_id=job_id,
                runtime_env=request.runtime_env,
                metadata={RUN_KEY: request.run, RUN_PATH_KEY: request.run_path},
            )
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() + pause_s > deadline:
                raise
        else:
            return
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def list_jobs(client: Any) -> list[Job]:
    """Jobs that `submit` made, the newest first."""
    with answering(client.get_address()):
        found = client.list_jobs()
    jobs = [_job_of(details) for details in found if details.submission_id and RUN_KEY in (details.metadata or {})]
    return sorted(jobs, key=lambda job: job.started or datetime.now(UTC), reverse=True)


def find_job(client: Any, name: str) -> Job:
    """A job by its id, or the newest one of a run by the run's name.

    Raises:
        InputError: there is none.
    """
    jobs = list_jobs(client)
    found = next((job for job in jobs if job.job_id == name), None) or next((j for j in jobs if j.run == name), None)
    if found is None:
        known = [job.job_id for job in jobs] + [job.run for job in jobs]
        raise InputError(
            Problem(
                code="MS-196",
                what="the cluster knows no such job or run",
                where=client.get_address(),
                got=shown(name) + closest(name, known),
                remedy="`modpo jobs` lists them",
            )
        )
    return found


def read_logs(client: Any, job: Job) -> str:
    with answering(client.get_address()):
        text: str = client.get_job_logs(job.job_id)
    return text


def follow(client: Any, job_id: str, write: Callable[[str], object]) -> Job:
    """Copies a job's log as it grows, and returns the job when it is over.

    A connection that breaks is opened again: the log goes on where it was.

    Raises:
        SetupError: the cluster does not answer any more.
    """
    log = _GrowingLog(write)
    lost_at: float | None = None
    while True:
        before = log.written
        try:
            with answering(client.get_address()):
                asyncio.run(log.copy(client, job_id))
                job = _job_of(client.get_job_info(job_id))
        except SetupError as error:
            lost_at = time.monotonic() if lost_at is None or log.written > before else lost_at
            if time.monotonic() - lost_at > LOST_PATIENCE_S:
                raise SetupError(_lost(job_id, error)) from error
        else:
            if job.is_over:
                return job
            lost_at = None
        time.sleep(POLL_S)


class _GrowingLog:
    """The part of a log that was not copied yet; every connection sends it from the start."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.written = 0
        self._write = write

    async def copy(self, client: Any, job_id: str) -> None:
        import aiohttp

        seen = 0
        try:
            async with asyncio.timeout(SILENCE_S) as limit:
                async for text in client.tail_job_logs(job_id):
                    limit.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                    seen += len(text)
                    if seen > self.written:
                        self._write(text[self.written - seen :])
                        self.written = seen
        except TimeoutError:
            return
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from error


def exit_status_of(job: Job) -> int:
    """The exit status of a job that is over, as `modpo run` would have given it.

    Raises:
        SetupError: its process never started, or was killed.
    """
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return INTERRUPTED
    if job.exit_status is not None and 0 < job.exit_status <= LARGEST_STATUS:
        return job.exit_status
    raise SetupError(
        Problem(
            code="MS-418",
            what="the job ended without an exit status of its own",
            where=job.job_id,
            got=last_line(job.message),
            remedy="the same command goes on from the last checkpoints; on a node that ran out of memory it needs more",
        )
    )


def stop(client: Any, job: Job, *, patience_s: float = STOP_PATIENCE_S) -> Job:
    """Stops a job and waits until it is over; one that is over already stays as it is.

    Raises:
        SetupError: it is still not over.
    """
    with answering(client.get_address()):
        client.stop_job(job.job_id)
        deadline = time.monotonic() + patience_s
        while not job.is_over:
            if time.monotonic() > deadline:
                raise SetupError(
                    Problem(
                        code="MS-419",
                        what="the job was asked to stop and has not yet",
                        where=job.job_id,
                        got=f"{job.status} after {patience_s:.0f} s",
                        remedy=f"look again with `modpo jobs`; its log is `modpo logs {job.job_id}`",
                    )
                )
            time.sleep(POLL_S)
            job = _job_of(client.get_job_info(job.job_id))
    return job


def _job_of(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        job_id=details.submission_id,
        run=metadata.get(RUN_KEY, ""),
        run_path=metadata.get(RUN_PATH_KEY, ""),
        status=details.status.value,
        started=_moment(details.start_time),
        ended=_moment(details.end_time),
        exit_status=details.driver_exit_code,
        message=details.message or "",
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _same_run(job: Job) -> Problem:
    return Problem(
        code="MS-313",
        what="a job of the same run is on the cluster already",
        where=job.run_path,
        got=f"{job.job_id} is {job.status}",
        remedy=f"follow it with `modpo logs {job.job_id} --follow`, or end it with `modpo stop {job.job_id}`",
    )


def _lost(job_id: str, error: SetupError) -> Problem:
    return Problem(
        code="MS-420",
        what="the connection to the job is lost; the job itself goes on where its cluster does",
        where=job_id,
        got=error.problems[0].got,
        remedy=f"`modpo logs {job_id} --follow` once the cluster answers again",
    )
