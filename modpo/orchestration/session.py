"""One run's hold on a cluster: connected, with a desk and slots, from the first piece of work to the end of the run."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from modpo.config.spec import Work
from modpo.config.tree import SweepConfig
from modpo.errors import Problem, SetupError, TrialError
from modpo.orchestration.cluster import connected, node_shapes, start_desk
from modpo.orchestration.desk import Event
from modpo.orchestration.failures import failure_of
from modpo.orchestration.fit import check_fit
from modpo.orchestration.resources import check_workers, plan_resources
from modpo.orchestration.slots import SlotSettings, end_slots, open_ahead, perform, record_failure

logger = logging.getLogger(__name__)


def work_error(problems: Sequence[Problem], exit_statuses: Sequence[int]) -> TrialError | SetupError:
    """The error of a run whose work failed, where a machine short of something is told from work that is at fault."""
    return SetupError(problems) if set(exit_statuses) == {SetupError.exit_status} else TrialError(problems)


class Session:
    """Connects when work is first needed: a run whose stages are all there never starts Ray.

    Use as a context manager; leaving it ends the slots and, on this machine, the private cluster.
    """

    def __init__(self, config: SweepConfig, run_dir: Path, *, num_trials: int) -> None:
        self._config, self._run_dir, self._num_trials = config, run_dir, num_trials
        self._stack = ExitStack()
        self._settings: SlotSettings | None = None
        self._desk: Any = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settings is not None:
            end_slots(self._settings, patience_s=5.0 if error is None else 0.0)
        # Asked after this, Ray would start another cluster to answer.
        self._desk = None
        self._stack.close()

    @property
    def settings(self) -> SlotSettings:
        """How slots are opened; connects on first use and opens all slots, so that their start-ups overlap.

        Raises:
            SetupError: the cluster does not answer, not even one trial fits it, or its workers cannot train the model.
        """
        if self._settings is None:
            started = time.monotonic()
            self._stack.enter_context(connected())
            resources = plan_resources(self._config.resources, node_shapes(), num_trials=self._num_trials)
            check_workers(self._config.model, resources)
            check_fit(self._config, resources)
            desk = f"desk-{uuid.uuid4().hex[:12]}"
            self._desk = start_desk(desk, max_slots=resources.slots, max_failures=self._config.resources.max_failures)
            self._settings = SlotSettings(
                desk, str(self._run_dir / "train"), resources, self._config.resources.hang_timeout
            )
            open_ahead(resources.slots, self._settings)
            logger.info("cluster ready in %.1f s: %d slots", time.monotonic() - started, resources.slots)
        return self._settings

    @property
    def num_slots(self) -> int:
        return self.settings.resources.slots

    def perform_all(self, works: Sequence[Work]) -> None:
        """Does pieces of work side by side and waits for all.

        Raises:
            TrialError: with the root cause of every piece that failed.
            SetupError: the same, where each failed for want of something on its machine.
        """
        failed = [(work, end) for work, end in self._ends(works) if end["kind"] == "failed"]
        if failed:
            problems = [_failed(work, end["error"]) for work, end in failed]
            raise work_error(problems, [end["exit_status"] for _, end in failed])

    def wait_for(self, works: Sequence[Work]) -> None:
        """Waits for points that are still at work though whoever waited for them is gone, as a Tune trial may be.

        Raises:
            TrialError: the desk is gone.
        """
        try:
            pieces = ray.get(self._desk.snapshot.remote())
        except ray.exceptions.RayActorError as error:
            raise _desk_lost(error) from error
        left = {piece["work_id"] for piece in pieces if piece["state"] in ("queued", "leased")}
        for work, end in self._ends([work for work in works if work.work_id in left]):
            if end["kind"] == "failed":
                record_failure(work, end["error"], end["exit_status"])

    def _ends(self, works: Sequence[Work]) -> list[tuple[Work, Event]]:
        """The last event of each piece, once all are over.

        Raises:
            TrialError: the desk is gone.
        """
        settings = self.settings
        pool = ThreadPoolExecutor(max_workers=max(1, len(works)))
        try:
            ends = list(pool.map(lambda work: list(perform(work, settings))[-1], works))
        except ray.exceptions.RayActorError as error:
            raise _desk_lost(error) from error
        finally:
            # After an interrupt nobody waits for the others: they end when the session disconnects.
            pool.shutdown(wait=False, cancel_futures=True)
        return list(zip(works, ends, strict=True))

    def device_seconds(self) -> float:
        """What work that is no point's has taken so far; the ledger has the time of points.

        0 before the session has connected, and where the desk no longer answers.
        """
        return sum((float(piece["device_seconds"]) for piece in self.snapshot() if piece["trial"] is None), start=0.0)

    def snapshot(self) -> list[dict[str, Any]]:
        """What the desk knows of every piece of work; empty before the session has connected and when it ends."""
        if self._desk is None:
            return []
        try:
            pieces: list[dict[str, Any]] = ray.get(self._desk.snapshot.remote())
        except ray.exceptions.RayError:
            return []
        return pieces


def _desk_lost(error: Exception) -> TrialError:
    return TrialError(
        Problem(
            code="MS-506",
            what="the run lost its desk, the process that hands out its work",
            got=failure_of(error).cause,
            remedy="run the same command again: everything finished is kept, the others go on from their checkpoints",
        )
    )


def _failed(work: Work, error: str) -> Problem:
    return Problem(code="MS-502", what=f"{work.work_id} failed", got=error, remedy="mend the cause and run again")
