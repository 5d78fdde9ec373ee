"""What a slot's workers do with points that they were given together: train them together, if that can be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from modpo.artifacts import is_complete
from modpo.config.spec import Work
from modpo.errors import TrialError
from modpo.ledger import final_dir, read_point, update_point
from modpo.orchestration.fetching import fetch_inputs
from modpo.orchestration.stopwatch import Stopwatch
from modpo.training.cotraining import NotTogetherError, train_together, trial_of
from modpo.training.loop import Hook, Progress
from modpo.training.process_group import from_rank_zero

logger = logging.getLogger(__name__)

HooksOf = Callable[[Work, Callable[[Progress], None]], list[Hook]]
"""The hooks of a point, which also call a function of ours with its progress."""


def train_group(works: Sequence[Work], hooks_of: HooksOf, *, rank: int, world_size: int) -> bool:
    """Trains those of the points that have no final weights yet; the caller then measures each by itself.

    Every point is charged its share of the seconds.

    Returns:
        False where they cannot be trained together, or one of them diverged: each is then to be trained by itself, from
        the checkpoints that it has, and shows its own error. The same on all ranks.
    """
    run_dir = Path(works[0].run_dir)
    missing = from_rank_zero([not is_complete(final_dir(run_dir, trial_of(work))) for work in works])
    waiting = [work for work, is_missing in zip(works, missing, strict=True) if is_missing]
    if len(waiting) < 2:
        return True
    spent = [_ShareOfTime(work, len(waiting), world_size) for work in waiting]
    if rank == 0:
        for share in spent:
            share.begin()
    together = True
    try:
        fetch_inputs(waiting[0])
        train_together(
            waiting, hooks=[hooks_of(work, share.record) for work, share in zip(waiting, spent, strict=True)]
        )
    except (NotTogetherError, TrialError) as error:
        names = ", ".join(trial_of(work).trial_id for work in waiting)
        logger.warning("%s are trained one after another: %s", names, error)
        together = False
    # After any other error of one rank among several, another slot may have the points by now: nothing is written.
    if rank == 0:
        for share in spent:
            share.charge(together)
    return together


class _ShareOfTime:
    """One of several points that are trained at once, in the ledger."""

    def __init__(self, work: Work, num_points: int, world_size: int) -> None:
        self._run_dir, self._trial = Path(work.run_dir), trial_of(work)
        before = read_point(self._run_dir, self._trial.trial_id)
        self._watch = Stopwatch(before, world_size / num_points)
        self._attempts = before.attempts if before else 0

    def begin(self) -> None:
        update_point(self._run_dir, self._trial, status="running", error="", exit_status=0, attempts=self._attempts + 1)

    def record(self, progress: Progress) -> None:
        where = {"step": progress.step, "num_steps": progress.num_steps, "training": progress.totals}
        update_point(self._run_dir, self._trial, **where, **self._watch.spent())

    def charge(self, together: bool) -> None:
        """The time is spent either way; what was not done together waits, as if it had not begun."""
        waiting = {} if together else {"status": "pending", "attempts": self._attempts}
        update_point(self._run_dir, self._trial, **waiting, **self._watch.spent())
