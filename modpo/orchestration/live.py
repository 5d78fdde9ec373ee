"""What a user sees while a run goes on: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from modpo.errors import ConflictError, Problem

REFRESH_S = 1.0

Snapshot = Callable[[], list[dict[str, Any]]]


class Watcher:
    """Told of every stage, and shown the desk while work goes on. This one keeps silent: Python callers use it."""

    def waiting(self, line: str) -> None:
        """Another driver may be at work on the run."""

    def taken_over(self, error: ConflictError) -> None:
        """Another driver has the run now; called from a thread. Whatever is written next raises the same error."""

    def stage(self, name: str, *, skipped: bool, reason: str = "") -> None:
        """A stage begins, or has nothing to do; there may be a reason why it is done again."""

    def warn(self, warnings: Sequence[Problem]) -> None:
        """Reasons for doubt that stop nothing."""

    @contextmanager
    def watching(self, snapshot: Snapshot) -> Iterator[None]:
        """Shows the desk for the length of a block."""
        yield


class ConsoleWatcher(Watcher):
    """Draws a live table on a terminal; writes one line for each change of state into a file or pipe."""

    def __init__(self, console: Console, objective_names: tuple[str, ...]) -> None:
        self._console, self._names = console, objective_names
        self._stage = ""
        self._started = time.monotonic()
        self._states: dict[str, str] = {}
        self._first_steps: dict[str, tuple[int, float]] = {}

    def waiting(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def taken_over(self, error: ConflictError) -> None:
        """Ends the process there and then: Ray's own files of the run are not asked for a lease."""
        sys.stdout.flush()
        sys.stderr.write(f"{error.render()}\n")
        sys.stderr.flush()
        os._exit(error.exit_status)

    def stage(self, name: str, *, skipped: bool, reason: str = "") -> None:
        self._stage = name
        remark = " [dim]already there, skipped[/dim]" if skipped else f": {escape(reason)}" if reason else ""
        self._console.print(f"[bold]{name}[/bold]{remark}", soft_wrap=True)

    def warn(self, warnings: Sequence[Problem]) -> None:
        for warning in warnings:
            self._console.print(warning.render("warning"), style="yellow", markup=False, highlight=False)

    @contextmanager
    def watching(self, snapshot: Snapshot) -> Iterator[None]:
        over = threading.Event()
        show = self._draw if self._console.is_terminal else self._write_changes
        thread = threading.Thread(target=show, args=(snapshot, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=5 * REFRESH_S)

    def _draw(self, snapshot: Snapshot, over: threading.Event) -> None:
        with Live(console=self._console, refresh_per_second=2, transient=True) as live:
            while not over.wait(REFRESH_S):
                live.update(self._table(snapshot()))

    def _write_changes(self, snapshot: Snapshot, over: threading.Event) -> None:
        finished = False
        while not finished:
            finished = over.wait(REFRESH_S)
            for piece in snapshot():
                if self._states.get(piece["work_id"]) != piece["state"]:
                    self._states[piece["work_id"]] = piece["state"]
                    elapsed = time.monotonic() - self._started
                    where = f" on {piece['slot']}" if piece["state"] == "leased" else ""
                    self._console.print(
                        f"  {elapsed:6.1f} s  {piece['work_id']}: {piece['state']}{where}", highlight=False
                    )

    def _table(self, pieces: list[dict[str, Any]]) -> Table:
        table = Table(title=f"{self._stage} · {time.monotonic() - self._started:.0f} s", title_justify="left")
        for column in ("work", *self._names, "state", "step", "loss", "ETA"):
            table.add_column(column, justify="left" if column in ("work", "state") else "right")
        for piece in pieces:
            table.add_row(*self._row(piece))
        return table

    def _row(self, piece: dict[str, Any]) -> list[str]:
        last, trial = piece["last"] or {}, piece["trial"]
        weights = [f"{w:.2f}" for w in trial["weights"]] if trial else ["" for _ in self._names]
        step, num_steps = int(last.get("step", 0)), int(last.get("num_steps", 0))
        is_training = step > 0 and piece["state"] == "leased"
        return [
            piece["kind"],
            *weights,
            last.get("phase", "training" if is_training else piece["state"]),
            f"{step}/{num_steps}" if step else "",
            f"{last['loss']:.4f}" if "loss" in last else "",
            f"{self._remaining(piece['work_id'], step, num_steps):.0f} s" if is_training else "",
        ]

    def _remaining(self, work_id: str, step: int, num_steps: int) -> float:
        """Seconds left at the pace since the first report."""
        first_step, since = self._first_steps.setdefault(work_id, (step, time.monotonic()))
        pace = (time.monotonic() - since) / (step - first_step) if step > first_step else 0.0
        return pace * (num_steps - step)
