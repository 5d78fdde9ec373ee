"""Each error has the class that says whether another try is worth it; the numbers are those of the issue."""

from __future__ import annotations

import errno

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from modpo.errors import InputError, Problem, SetupError, TrialError
from modpo.orchestration.failures import Failure, failure_of, given_up, most_telling, pause_s

PREEMPTED = RayActorError("a" * 8, "The node was taken back.", preempted=True)
GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:41234")
MONITOR = OutOfMemoryError("Memory on the node was 15.2GB / 15.6GB (0.97), which exceeds the threshold of 0.95.")


def problem(code: str) -> Problem:
    return Problem(code=code, what="it does not work")


@pytest.mark.parametrize(
    ("error", "kind", "exit_status"),
    [
        (InputError(problem("MS-280")), "input", 2),
        (SetupError(problem("MS-404")), "setup", 4),
        (SetupError(problem("MS-421")), "setup", 4),
        (SetupError(problem("MS-423")), "infrastructure", 4),
        (TrialError(problem("MS-501")), "numeric", 5),
        (TrialError(problem("MS-504")), "numeric", 5),
        (ZeroDivisionError("division by zero"), "code", 5),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "code", 5),
        (FileNotFoundError(errno.ENOENT, "No such file"), "code", 5),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "memory", 5),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1000 bytes"), "memory", 5),
        (MemoryError(), "memory", 5),
        (WorkerHealthCheckFailedError("a check failed", failure=MONITOR), "memory", 5),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), "setup", 4),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "setup", 4),
        (OSError(errno.EROFS, "Read-only file system"), "setup", 4),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "setup", 4),
        (OSError(errno.EIO, "Input/output error"), "infrastructure", 5),
        (OSError(errno.ESTALE, "Stale file handle"), "infrastructure", 5),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "infrastructure", 5),
        (GLOO, "infrastructure", 5),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), "infrastructure", 5),
        (WorkerHealthCheckFailedError("a check failed", failure=ActorDiedError()), "infrastructure", 5),
        (WorkerHealthCheckTimeoutError("hanging for 600 s"), "infrastructure", 5),
        (WorkerHealthCheckFailedError("a check failed", failure=PREEMPTED), "preemption", 5),
    ],
)
def test_each_error_has_its_class(error: Exception, kind: str, exit_status: int) -> None:
    found = failure_of(error)
    assert (found.kind, found.exit_status) == (kind, exit_status)
    assert found.is_retried == (kind in ("infrastructure", "preemption"))
    assert "\n" not in found.cause


def test_of_several_workers_the_one_that_died_of_something_tells_why() -> None:
    """The others only say that it went away."""
    gone = WorkerHealthCheckFailedError("a check failed", failure=MONITOR)
    found = most_telling({0: GLOO, 1: gone, 2: GLOO})
    assert (found.kind, found.rank) == ("memory", 1)
    assert most_telling({0: GLOO, 1: gone, 3: PREEMPTED}).kind == "preemption", "with its node its memory is gone too"


def test_an_actor_that_died_is_told_of_by_its_cause_alone() -> None:
    text = "The actor died.\n\tclass_name: RayTrainWorker\n\tactor_id: 77af\n\tpid: 12\n\tip: 10.0.0.7\nIts node died."
    assert failure_of(RayActorError("77af", text)).cause == "RayActorError: The actor died. Its node died."


def test_giving_up_says_class_count_and_last_cause() -> None:
    assert given_up(Failure("infrastructure", "OSError: [Errno 5] Input/output error"), 4) == (
        "infrastructure: lost its workers 4 times with nothing new on storage in between; "
        "last: OSError: [Errno 5] Input/output error"
    )


def test_tries_are_further_and_further_apart_up_to_a_minute() -> None:
    assert [pause_s(losses) for losses in range(8)] == [0, 0, 5, 10, 20, 40, 60, 60]
