"""Why work stopped, and whether it is worth another try: plain values, without a word of Ray or torch.

| class | what it is | another try |
|---|---|---|
| input, setup, numeric, code | the data, the machine, the numbers or a line of code would do the same again | never |
| memory | the same batches would fill the same memory again | never unchanged |
| infrastructure | a worker or node died, a collective broke, storage did not answer | until `max_failures` in a row |
| preemption | a node was taken back, with or without notice | always |

In a row: without a checkpoint, or a part of an annotation, that is new on storage since the last.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from modpo.disk_space import is_out_of_space
from modpo.errors import ModpoError, root_cause

FailureClass = Literal["input", "setup", "numeric", "code", "memory", "infrastructure", "preemption"]

CLASS_OF_STATUS: dict[int, FailureClass] = {2: "input", 3: "setup", 4: "setup"}
NUMERIC_CODES = frozenset({"MS-501", "MS-504"})
# An object store that was asked several times and gave no answer; what it has is as it was.
INFRASTRUCTURE_CODES = frozenset({"MS-423"})
# Storage that answers again a moment later.
HICCUPS = frozenset(
    {
        *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO),
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
# torch raises plain RuntimeErrors for some of them.
BROKEN_COLLECTIVE = re.compile(r"gloo|nccl|c10d|TCPStore|connection (closed|reset) by (remote )?peer", re.IGNORECASE)
# What Ray prints before it comes to the cause.
ACTOR_FIELDS = re.compile(r"^\s*(class_name|actor_id|pid|name|namespace|ip): .*$", re.MULTILINE)

# The first loss is mended at once. Whatever kills again and again is given time to pass.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Failure:
    """Why work stopped.

    Attributes:
        cause: one line.
        exit_status: what a run ends with because of it.
        rank: of the worker that it happened to, None where that is not known.
    """

    kind: FailureClass
    cause: str
    exit_status: int = 5
    rank: int | None = None

    @property
    def is_retried(self) -> bool:
        return self.kind in ("infrastructure", "preemption")


WORKERS_DIED = Failure("infrastructure", "its workers died")
# Of an elastic slot Ray says nothing when there is room for more workers, or for fewer only.
RESIZED = Failure("preemption", "there are more or fewer workers now")


def failure_of(error: BaseException) -> Failure:
    """What an error is, raised by a piece of work or told of a worker by Ray."""
    # Ray wraps the death of a worker in what noticed it.
    inner = getattr(error, "health_check_failure", None) or error
    if isinstance(inner, ModpoError):
        return Failure(_kind_of_ours(inner), root_cause(inner), inner.exit_status)
    kind = _kind(inner)
    return Failure(kind, _one_line(inner), 4 if kind == "setup" else 5)


def most_telling(errors: Mapping[int, BaseException]) -> Failure:
    """Of what workers say, by rank: where one dies of a cause of its own, the others only see it gone."""
    order = ("preemption", "memory", "setup", "infrastructure")
    found = [replace(failure_of(error), rank=rank) for rank, error in errors.items()]
    return min(found, key=lambda f: order.index(f.kind) if f.kind in order else len(order), default=WORKERS_DIED)


def given_up(failure: Failure, losses: int) -> str:
    """What is said of work that lost its workers once too often."""
    return (
        f"{failure.kind}: lost its workers {losses} times with nothing new on storage in between; last: {failure.cause}"
    )


def pause_s(losses: int) -> float:
    """Seconds to wait before another try after so many losses in a row."""
    return 0.0 if losses < 2 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (losses - 2))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or a host had no memory left: torch, Ray's memory monitor and Python each say so."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in _names(error):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _kind_of_ours(error: ModpoError) -> FailureClass:
    if any(problem.code in NUMERIC_CODES for problem in error.problems):
        return "numeric"
    if any(problem.code in INFRASTRUCTURE_CODES for problem in error.problems):
        return "infrastructure"
    return CLASS_OF_STATUS.get(error.exit_status, "code")


def _kind(error: BaseException) -> FailureClass:
    if is_out_of_memory(error):
        return "memory"
    if getattr(error, "preempted", False):
        return "preemption"
    if is_out_of_space(error):
        return "setup"
    return "infrastructure" if _is_of_infrastructure(error) else "code"


def _is_of_infrastructure(error: BaseException) -> bool:
    names = _names(error)
    if "RayTaskError" in names:
        return False
    if names & {"RayError", "DistError", "WorkerHealthCheckTimeoutError"}:
        return True
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in HICCUPS
    return isinstance(error, RuntimeError) and BROKEN_COLLECTIVE.search(str(error)) is not None


def _names(error: BaseException) -> set[str]:
    """Of its class and of all above: what tells libraries' errors without importing them."""
    return {each.__name__ for each in type(error).__mro__}


def _one_line(error: BaseException) -> str:
    if "RayActorError" in _names(error):
        return f"{type(error).__name__}: {' '.join(ACTOR_FIELDS.sub('', str(error)).split())[:300]}"
    return root_cause(error)
