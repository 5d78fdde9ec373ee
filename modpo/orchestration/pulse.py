"""How the desk hears of the work of a slot's workers: what `modpo.watch` tells in each of them."""

from __future__ import annotations

from typing import Any


class Pulse:
    """Listens to the work of one worker, and passes on what the desk needs to know of it."""

    def __init__(self, desk: Any, slot: str) -> None:
        self._desk, self._slot = desk, slot

    def beat(self, usual_s: float | None) -> None:
        """Nobody waits for it yet."""

    def kept(self) -> None:
        # Nobody waits for the answer.
        self._desk.kept.remote(self._slot)

    def must_leave(self) -> bool:
        return False
