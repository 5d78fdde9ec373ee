"""An elastic slot that is given room for more workers starts all of them anew: nobody has lost anything by that."""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState, RunningState

from modpo.orchestration.cluster import NAMESPACE


class Resizes(ControllerCallback):  # type: ignore[misc]  # Ray types it in its own version 2 only
    """Runs in the controller of a slot's Train run, before it ends workers that are well."""

    def __init__(self, desk: str, slot: str) -> None:
        self._desk, self._slot = desk, slot

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(previous_state, RunningState) and isinstance(current_state, ResizingState):
            desk = ray.get_actor(self._desk, namespace=NAMESPACE)
            ray.get(desk.excuse.remote(self._slot))
