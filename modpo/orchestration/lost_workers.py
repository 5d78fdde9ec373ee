"""What Ray Train knows of workers that are gone, told to the desk: it alone sees how they died."""

from __future__ import annotations

from typing import Any

import ray
from ray.train import UserCallback

from modpo.orchestration.cluster import NAMESPACE
from modpo.orchestration.failures import most_telling


class LostWorkers(UserCallback):  # type: ignore[misc]  # Ray types it in its own version 2 only
    """Runs in the controller of a slot's Train run."""

    def __init__(self, desk: str, slot: str) -> None:
        self._desk, self._slot = desk, slot

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Does not wait for an answer: the controller is about to start new workers, which takes seconds."""
        desk = ray.get_actor(self._desk, namespace=NAMESPACE)
        desk.workers_lost.remote(self._slot, most_telling(worker_exceptions))
