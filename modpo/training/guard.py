"""Stops a training whose numbers are not finite any more, and says at which step, on which rows and under what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from modpo.errors import Problem, TrialError

MOST_SKIPPED = 5
SHOWN_ROWS = 8

RowLosses = Sequence[tuple[list[int], Tensor | None]]
"""Rows of this rank's micro-batches with the loss of each, (B,), where it is known."""
Names = Callable[[Sequence[int]], list[str]]
"""What a user knows rows by."""


@dataclass(frozen=True)
class StepNumbers:
    """What a step has shown; all but `row_losses` is the same on every rank.

    Attributes:
        rows: of the global batch.
        skipped: the engine found that a gradient is too large for its dtype, and left the weights as they were.
    """

    step: int
    rows: Sequence[int]
    rate: float
    metrics: Mapping[str, float]
    skipped: bool
    row_losses: RowLosses


class NumericGuard:
    """Looks at every step. All ranks call it, see the same and raise alike: nothing is saved after such a step.

    Args:
        names: of rows.
        about: what is trained, in words.
    """

    def __init__(self, names: Names, about: str) -> None:
        self._names, self._about = names, about
        self._skipped_in_a_row = 0

    def look(self, numbers: StepNumbers) -> None:
        """Passes a step on.

        Raises:
            TrialError: its loss or gradient is not finite, or too many steps in a row were skipped.
        """
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if numbers.skipped else 0
        loss, norm = numbers.metrics["loss"], numbers.metrics["optim/grad_norm"]
        # One that is too large for its dtype, and was not used, did no harm; what is no number will not be one again.
        is_harmless = math.isfinite(loss) and not math.isnan(norm) and numbers.skipped
        bad = [name for name, value in (("loss", loss), ("optim/grad_norm", norm)) if not math.isfinite(value)]
        if bad and not is_harmless:
            raise TrialError(self._not_finite(numbers, " and ".join(bad)))
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise TrialError(self._skipped(numbers))

    def _not_finite(self, numbers: StepNumbers, what: str) -> Problem:
        return Problem(
            code="MS-501",
            what=f"{what} not finite at step {numbers.step}",
            where=self._where(numbers.rows, _bad_rows(numbers.row_losses)),
            got=self._setting(numbers),
            wanted="finite numbers",
            remedy="lower training.learning_rate, or raise the weight of the primary objective",
        )

    def _skipped(self, numbers: StepNumbers) -> Problem:
        return Problem(
            code="MS-504",
            what=f"{MOST_SKIPPED} steps in a row were skipped, the last of them step {numbers.step}",
            where=self._where(numbers.rows, []),
            got=f"gradients that are not finite; {self._setting(numbers)}",
            wanted="gradients that fit the model's dtype",
            remedy="lower training.learning_rate, or raise the weight of the primary objective; model.dtype: float32 "
            "skips no step",
        )

    def _where(self, rows: Sequence[int], bad: Sequence[int]) -> str:
        if bad and len(bad) < len(set(rows)):
            return f"{len(bad)} of the batch's {len(rows)} rows: {self._listed(bad)}"
        found = "every one" if bad else "no single one"
        return f"{found} of the batch's {len(rows)} rows: {self._listed(rows)}"

    def _listed(self, rows: Sequence[int]) -> str:
        hidden = len(rows) - SHOWN_ROWS
        return ", ".join(self._names(rows[:SHOWN_ROWS])) + (f" and {hidden} more" if hidden > 0 else "")

    def _setting(self, numbers: StepNumbers) -> str:
        return ", ".join(filter(None, [self._about, f"learning rate {numbers.rate:.3g}"]))


def _bad_rows(row_losses: RowLosses) -> list[int]:
    """Rows of all ranks whose own loss is not finite, each once; every rank must call it."""
    own = [
        row
        for rows, losses in row_losses
        if losses is not None
        for row, is_finite in zip(rows, torch.isfinite(losses).tolist(), strict=True)
        if not is_finite
    ]
    found: list[list[int]] = [own]
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, own)
    return sorted({row for part in found for row in part})
