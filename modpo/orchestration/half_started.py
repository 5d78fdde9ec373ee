"""Groups of workers of which one is lost while they start: what they hold is given back.

Ray 2.60 forgets a group that fails between its first call to all workers and the last: those that live, and the room of
all of them, would stay taken until the cluster ends, and the next group would wait for that room for ever.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup


class WholeGroup(WorkerGroup):  # type: ignore[misc]  # Ray types it in its own version 2 only
    """Starts as a whole or leaves nothing behind."""

    def _start(self) -> None:
        try:
            super()._start()
        except Exception:
            if self.has_started():
                self._worker_group_state.shutdown()
                self._clear_state()
            raise


class HalfStarted(ControllerCallback):  # type: ignore[misc]  # Ray types it in its own version 2 only
    """Runs in the controller of a slot's Train run, before it starts its first workers."""

    def after_controller_start(self, train_run_context: Any) -> None:
        TrainController.worker_group_cls = WholeGroup
