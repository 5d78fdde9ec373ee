"""A slot: one long-lived Ray Train run whose workers take one piece of work after another from the desk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from modpo.config.spec import Work
from modpo.errors import root_cause
from modpo.ledger import read_point, update_point
from modpo.orchestration.cluster import CLUSTER_ENVIRONMENT, NAMESPACE
from modpo.orchestration.desk import Event
from modpo.orchestration.resources import ResourcePlan
from modpo.storage import arrow_filesystem

# A slot outlives a few lost workers. Then another is opened in its place; the desk counts what its work has lost.
MAX_SLOT_RESTARTS = 5
POLL_S = 5.0
LOOK_S = 1.0

# How often an elastic slot looks for room for more workers.
RESIZE_CHECK_S = 30.0
# After a loss Ray first tries with as many workers as there were, and waits so long for a node that is gone. What a new
# node needs to boot is not in it: an elastic slot asks for workers only where a node is there.
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
ELASTIC_START_TIMEOUT_S = "30"


@dataclass(frozen=True)
class SlotSettings:
    """What opening a slot takes: plain values, so that a Tune trial can carry them.

    Attributes:
        desk: name of the desk's actor.
        storage_path: where Ray Train keeps its own files.
        hang_timeout_s: see `hangs.bound_s`.
    """

    desk: str
    storage_path: str
    resources: ResourcePlan
    hang_timeout_s: float


class Slot:
    """The driver of one Train run. It lives on after the trial that opened it, so that the next one can use it."""

    def __init__(self, name: str, settings: SlotSettings) -> None:
        """Launches the Train run and returns at once."""
        self._name, self._settings = name, settings
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        threading.Thread(target=self._look_after, daemon=True).start()

    def ping(self) -> None:
        """Answers while the driver lives."""

    def wait(self) -> None:
        """Returns when the Train run has ended."""
        self._thread.join()

    def _look_after(self) -> None:
        """Ends workers that are hung. A run that was killed cannot send its slots home: without a desk a slot ends."""
        from modpo.orchestration.hung_workers import end_hung

        try:
            desk = ray.get_actor(self._settings.desk, namespace=NAMESPACE)
            while True:
                if hung := ray.get(desk.hung.remote(self._name)):
                    end_hung(hung, self._stacks_file())
                time.sleep(LOOK_S)
        except (ValueError, ray.exceptions.RayActorError):
            # The Train run is this process's own and ends with it; Ray then frees its workers.
            os._exit(0)

    def _stacks_file(self) -> Path:
        """In the run's folder, for the stacks of workers that hang now."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return Path(self._settings.storage_path).parent / "stacks" / f"{self._name}-{moment}.txt"

    def _run(self) -> None:
        # Imported in this process alone: Tune's trials import this module too, and need no torch in memory.
        import ray.train
        from ray.train.torch import TorchTrainer

        from modpo.orchestration.half_started import HalfStarted
        from modpo.orchestration.lost_workers import LostWorkers
        from modpo.orchestration.resizes import Resizes

        resources = self._settings.resources
        if resources.is_elastic and os.environ.get(START_TIMEOUT) == CLUSTER_ENVIRONMENT[START_TIMEOUT]:
            # `fit` passes it on to the controller. A timeout of the user's own stays.
            os.environ[START_TIMEOUT] = ELASTIC_START_TIMEOUT_S
        storage_path, filesystem = arrow_filesystem(Path(self._settings.storage_path))
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config={
                "desk": self._settings.desk,
                "slot": self._name,
                "hang_timeout_s": self._settings.hang_timeout_s,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=(resources.min_workers, resources.num_workers)
                if resources.is_elastic
                else resources.num_workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=resources.worker,
                label_selector=resources.node_labels or None,
                elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
            ),
            run_config=ray.train.RunConfig(
                # The desk's name is new in every session, so Train finds no state of an earlier one to resume from.
                name=f"{self._settings.desk}-{self._name}",
                storage_path=storage_path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=MAX_SLOT_RESTARTS),
                callbacks=[
                    LostWorkers(self._settings.desk, self._name),
                    Resizes(self._settings.desk, self._name),
                    HalfStarted(),
                ],
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
            reason = "its Train run ended"
        except Exception as error:  # noqa: BLE001  # whatever ended the run, its work must go back to the desk
            reason = root_cause(error)
        desk = ray.get_actor(self._settings.desk, namespace=NAMESPACE)
        ray.get(desk.slot_lost.remote(self._name, reason))


def _train_loop(config: dict[str, Any]) -> None:
    # Only a worker needs transformers and DeepSpeed; the helpers of a Train run unpickle this function as well.
    from modpo.orchestration.worker import work_until_closed

    work_until_closed(config)


def perform(work: Work, settings: SlotSettings, together: Sequence[Work] = ()) -> Iterator[Event]:
    """Has a slot do a piece of work; yields its reports, `finished` or `failed` last.

    Opens a slot where none is free and the cluster has room for one more. Calling it again for the same work follows
    the same piece, from its first report on.

    Args:
        together: the pieces that one slot is to get with this one, itself among them; this one alone, if left out.
    """
    desk = ray.get_actor(settings.desk, namespace=NAMESPACE)
    ray.get(desk.submit.remote(*(together or (work,))))
    seen = 0
    while True:
        _open_if_needed(desk, settings)
        events = ray.get(desk.events.remote(work.work_id, seen, POLL_S))
        seen += len(events)
        yield from events
        if events and events[-1]["kind"] in ("finished", "failed"):
            return
        if not events:
            _report_dead_slots(desk, settings)


def record_failure(work: Work, error: str, exit_status: int) -> None:
    """A point that lost its workers too often had nobody left to say so."""
    assert work.trial is not None
    record = read_point(Path(work.run_dir), work.trial.trial_id)
    if record is None or record.status != "failed":
        update_point(Path(work.run_dir), work.trial, status="failed", error=error, exit_status=exit_status)


def open_ahead(count: int, settings: SlotSettings) -> None:
    """Opens slots before there is work for them: their start-up then overlaps with what comes first."""
    desk = ray.get_actor(settings.desk, namespace=NAMESPACE)
    for _ in range(count):
        _open_if_needed(desk, settings, ahead=True)


def end_slots(settings: SlotSettings, *, patience_s: float) -> None:
    """Sends all slots home, and ends those that have not gone in time."""
    try:
        desk = ray.get_actor(settings.desk, namespace=NAMESPACE)
        names = ray.get(desk.close.remote())
    except (ValueError, ray.exceptions.RayActorError):
        # Without a desk they end by themselves.
        return
    for name in names:
        actor = _find(name, settings)
        if actor is None:
            continue
        with suppress(ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            ray.get(actor.wait.remote(), timeout=patience_s)
        ray.kill(actor)


def _open_if_needed(desk: Any, settings: SlotSettings, *, ahead: bool = False) -> None:
    name = ray.get(desk.claim_slot.remote(ahead))
    if name is None:
        return
    driver = settings.resources.driver
    slot: Any = ray.remote(Slot).options(
        name=f"{settings.desk}-{name}",
        namespace=NAMESPACE,
        # Detached: it must outlive the trial that opened it. `end_slots` ends it.
        lifetime="detached",
        num_cpus=driver.get("CPU", 0),
        resources={resource: amount for resource, amount in driver.items() if resource != "CPU"},
        max_concurrency=4,
        # A Tune trial opens one in place of a lost one, and has no room for it in its own placement group.
        scheduling_strategy="DEFAULT",
    )
    slot.remote(name, settings)


def _report_dead_slots(desk: Any, settings: SlotSettings) -> None:
    """Tells the desk of slots whose driver is gone: nobody else would, and their work would wait for ever."""
    for name in ray.get(desk.open_slots.remote()):
        actor = _find(name, settings)
        try:
            if actor is not None:
                ray.get(actor.ping.remote(), timeout=POLL_S)
                continue
        except ray.exceptions.GetTimeoutError:
            # It waits for a place, or is slow: Ray knows when an actor is dead.
            continue
        except ray.exceptions.RayActorError:
            pass
        ray.get(desk.slot_lost.remote(name, "the slot's driver died"))


def _find(name: str, settings: SlotSettings) -> Any:
    try:
        return ray.get_actor(f"{settings.desk}-{name}", namespace=NAMESPACE)
    except ValueError:
        return None
