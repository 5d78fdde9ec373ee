"""Whether this node is about to be taken away: asked of the cluster in the background, answered at once.

Ray Train has a watcher for this too (`ray.train.get_preemption_info`). It takes an actor of 110 MB for each trial, and
each look is a barrier of all ranks; here one thread a node asks the same source, and the answer rides on the all-reduce
that every step has anyway.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import ray

# Some clouds give half a minute.
ASK_S = 2.0


class DrainNotice:
    """Asks until its process ends; `is_given` is true from the first notice on.

    Args:
        asks: whether it asks at all: one worker of a node is enough.
    """

    def __init__(self, *, asks: bool) -> None:
        self._given = threading.Event()
        self._node_id = ray.get_runtime_context().get_node_id()
        if asks:
            threading.Thread(target=self._ask, daemon=True, name="drain-notice").start()

    def is_given(self) -> bool:
        return self._given.is_set()

    def _ask(self) -> None:
        while not self._given.wait(ASK_S):
            # The cluster may be restarting its head: then it is asked again.
            with suppress(Exception):
                if self._node_id in ray._private.state.state.get_draining_nodes():
                    self._given.set()
