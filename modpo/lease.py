"""Exactly one driver works on a run, whatever dies: a lease on storage, whose epoch fences off earlier holders.

RUN/lease/000001.json  who took the run first; created where there was none, so that of several drivers one wins
          000001.beat  how often the holder has beaten since, and whether it has given the run back
          000002.json  who took it next, and so on

Clocks of different machines are never compared: whoever waits counts beats on a clock of its own.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from modpo.artifacts import create_json, read_json, write_json
from modpo.config.frozen import Frozen
from modpo.errors import ConflictError, ModpoError, Problem
from modpo.guards import guarded
from modpo.processes import start_of, state_and_start
from modpo.storage import address

logger = logging.getLogger(__name__)

BEAT_S = 3.0
TAKEOVER_S = 30.0
"""A holder that has not beaten for so long has lost the run, dead or not."""
POLL_S = 0.25
ZOMBIE = "Z"


class Holder(Frozen):
    """Who took a run.

    Attributes:
        epoch: counted from 1; a higher one fences off all lower ones.
        holder: an id of its own.
        machine: the same for processes that see each other by their ids; the host's name is for people.
        process_start: in clock ticks since the machine started: a process id may come again.
        job: id of the Ray job that the driver is, if it is one.
    """

    epoch: int
    holder: str
    host: str
    machine: str
    pid: int
    process_start: int
    job: str
    versions: dict[str, str]

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (job {self.job})" if self.job else "")


class Beat(Frozen):
    """How often a holder has beaten, and whether it has given the run back."""

    beats: int = 0
    released: bool = False


@contextmanager
def held(
    run_dir: Path,
    *,
    waiting: Callable[[str], None] = lambda _: None,
    lost: Callable[[ConflictError], None] = lambda _: None,
) -> Iterator[int]:
    """Takes a run for the length of a block and yields the epoch; nothing below the run is written without it.

    Args:
        waiting: told, in one line, whom it waits for.
        lost: called from another thread when another driver has taken the run over.

    Raises:
        ConflictError: another driver is at work on the run (MS-311), or has taken it over meanwhile (MS-314).
    """
    epoch = _take(run_dir, waiting)
    over = threading.Event()
    with fenced(run_dir, epoch):
        thread = threading.Thread(target=_keep_beating, args=(run_dir, epoch, over, lost), daemon=True)
        thread.start()
        try:
            yield epoch
        finally:
            over.set()
            thread.join()
            # Where the run is another's by now, this raises: whatever failed here, failed for that.
            _write_beat(run_dir, epoch, _read_beat(run_dir, epoch).model_copy(update={"released": True}))


@contextmanager
def fenced(run_dir: Path, epoch: int) -> Iterator[None]:
    """For the length of a block, this process writes below a run only while the epoch is the newest.

    Args:
        epoch: 0 for a run that nobody has taken, where nothing is checked.
    """
    if epoch == 0:
        yield
        return
    with guarded(run_dir, partial(check, run_dir, epoch)):
        yield


def check(run_dir: Path, epoch: int) -> None:
    """Asks storage, by one small read, whether an epoch still is the newest.

    Raises:
        ConflictError: another driver has taken the run.
    """
    # Epochs have no gaps: whoever took the run from this one has the next.
    successor = _read_holder(run_dir, epoch + 1)
    if successor is not None:
        raise ConflictError(
            Problem(
                code="MS-314",
                what="another driver has taken this run over; nothing more is written here",
                where=address(run_dir),
                got=f"{successor}, epoch {successor.epoch} after our {epoch}",
                remedy=f"this driver did not beat for {TAKEOVER_S:.0f} s (it was stopped, or storage did not answer): "
                "watch the other one with `modpo status`",
            )
        )


def newest(run_dir: Path) -> Holder | None:
    """Who took the run last; None where nobody has.

    Epochs have no gaps, so a few reads find the last one: nothing depends on how soon a folder's listing is true.
    """
    last, beyond = 0, 1
    while _read_holder(run_dir, beyond) is not None:
        last, beyond = beyond, 2 * beyond
    while beyond - last > 1:
        middle = (last + beyond) // 2
        last, beyond = (last, middle) if _read_holder(run_dir, middle) is None else (middle, beyond)
    return _read_holder(run_dir, last) if last else None


def standing(run_dir: Path) -> str:
    """One line on who works on a run, as far as can be told without waiting for a beat."""
    holder = newest(run_dir)
    if holder is None:
        return "no driver has taken this run"
    if _read_beat(run_dir, holder.epoch).released:
        return f"no driver is at work; the last was {holder}"
    if _is_gone(holder):
        return f"no driver is at work: {holder} is gone without a word; the same command goes on"
    return f"taken by {holder} {_age(run_dir, holder)}"


def _take(run_dir: Path, waiting: Callable[[str], None]) -> int:
    """The epoch under which this process has the run."""
    while True:
        current = newest(run_dir)
        if current is not None:
            _wait_for_end(run_dir, current, waiting)
        epoch = 1 if current is None else current.epoch + 1
        if create_json(_path(run_dir, epoch), _this_process(epoch).model_dump(mode="json")):
            return epoch
        # Another one was faster: it is waited for like any holder.


def _wait_for_end(run_dir: Path, holder: Holder, waiting: Callable[[str], None]) -> None:
    """Returns when a holder has given the run back, is gone, or has not beaten for so long that it counts as gone.

    Raises:
        ConflictError: it beats.
    """
    first, deadline = _read_beat(run_dir, holder.epoch), time.monotonic() + TAKEOVER_S
    announced = False
    while True:
        # Read after the time is up, so that a waiter that was stopped itself does not mistake that for silence.
        is_late = time.monotonic() > deadline
        beat = _read_beat(run_dir, holder.epoch)
        if beat.released or _is_gone(holder):
            return
        if beat.beats != first.beats:
            raise ConflictError(_at_work(run_dir, holder))
        if is_late:
            return
        if not announced:
            waiting(f"{holder} has this run: waiting up to {TAKEOVER_S:.0f} s for a sign of life before taking it over")
            announced = True
        time.sleep(POLL_S)


def _at_work(run_dir: Path, holder: Holder) -> Problem:
    return Problem(
        code="MS-311",
        what="another driver works on this run",
        where=address(run_dir),
        got=f"{holder} {_age(run_dir, holder)}",
        remedy="wait for it, watch it with `modpo status`, end it, or choose another name",
    )


def _age(run_dir: Path, holder: Holder) -> str:
    """By the beats: the clocks of two machines may differ."""
    return f"since about {_read_beat(run_dir, holder.epoch).beats * BEAT_S:.0f} s (epoch {holder.epoch})"


def _keep_beating(run_dir: Path, epoch: int, over: threading.Event, lost: Callable[[ConflictError], None]) -> None:
    beats = 0
    while not over.wait(BEAT_S):
        beats += 1
        try:
            _write_beat(run_dir, epoch, Beat(beats=beats))
        except ConflictError as error:
            lost(error)
            return
        except (OSError, ModpoError) as error:
            logger.warning("the lease of %s could not be renewed: %s", run_dir, error)


def _this_process(epoch: int) -> Holder:
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    return Holder(
        epoch=epoch,
        holder=uuid.uuid4().hex[:12],
        host=socket.gethostname(),
        machine=_this_machine(),
        pid=os.getpid(),
        process_start=start_of(os.getpid()),
        job=job.get("job_submission_id", ""),
        versions={name: version(name) for name in ("modpo", "ray")},
    )


def _this_machine() -> str:
    """The kernel since it started, and the namespace that process ids are numbered in: containers share the first."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _is_gone(holder: Holder) -> bool:
    """Whether the process of a holder has ended; False where that cannot be seen from here."""
    if holder.machine != _this_machine():
        return False
    try:
        os.kill(holder.pid, 0)
        state, start = state_and_start(holder.pid)
    except ProcessLookupError:
        return True
    except OSError:
        # Another user's, on a machine that hides them.
        return False
    return state == ZOMBIE or start != holder.process_start


def _path(run_dir: Path, epoch: int, kind: str = "json") -> Path:
    return run_dir / "lease" / f"{epoch:06d}.{kind}"


def _read_holder(run_dir: Path, epoch: int) -> Holder | None:
    try:
        return Holder.model_validate(read_json(_path(run_dir, epoch)))
    except FileNotFoundError:
        return None


def _read_beat(run_dir: Path, epoch: int) -> Beat:
    try:
        return Beat.model_validate(read_json(_path(run_dir, epoch, "beat")))
    except FileNotFoundError:
        return Beat()


def _write_beat(run_dir: Path, epoch: int, beat: Beat) -> None:
    write_json(_path(run_dir, epoch, "beat"), beat.model_dump(mode="json"))
