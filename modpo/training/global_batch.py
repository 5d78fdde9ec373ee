"""The rows of one optimiser step: the same however many workers are there to share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modpo.config.optimisation import OptimisationConfig
from modpo.core.packing import balanced_shares


@dataclass(frozen=True)
class GlobalBatch:
    """How the present workers go through the rows of a step.

    Attributes:
        size: rows of one optimiser step.
        micro_batches: of each worker, in one step.
        world_size: workers that are there.
    """

    size: int
    micro_batches: int
    world_size: int

    def micro_batch(self, rows: Sequence[int], number: int) -> list[int]:
        """The rows that all workers together take as their micro-batch of this number; sizes differ by one at most."""
        start, end = (len(rows) * part // self.micro_batches for part in (number, number + 1))
        return list(rows[start:end])

    def share(self, rows: Sequence[int], costs: Sequence[int] | None, rank: int) -> list[int]:
        """A worker's rows of a micro-batch: as many tokens as the others have, where those are known.

        Empty where there are fewer rows than workers.

        Args:
            costs: tokens of each row that there is.
        """
        if self.world_size == 1:
            return list(rows)
        if costs is None:
            start, end = (len(rows) * part // self.world_size for part in (rank, rank + 1))
            return list(rows[start:end])
        return [rows[place] for place in sorted(balanced_shares([costs[row] for row in rows], self.world_size)[rank])]

    def weight(self, share: Sequence[int]) -> float:
        """What the mean over a share counts in the mean over all micro-batches and workers, for a mean over all rows.

        A mean of means over unequal shares would weigh rows unequally.
        """
        return len(share) * self.world_size * self.micro_batches / self.size


def global_batch(settings: OptimisationConfig, *, num_workers: int, world_size: int) -> GlobalBatch:
    """The batch that `num_workers` would share, for the workers that are there: fewer take more micro-batches each.

    No worker gets more rows at once than a worker of the full number would, as far as rows weigh alike.

    Args:
        num_workers: that the sweep file's batch sizes are meant for.
    """
    of_all = settings.gradient_accumulation_steps * num_workers
    return GlobalBatch(
        size=settings.per_device_train_batch_size * of_all,
        micro_batches=math.ceil(of_all / world_size),
        world_size=world_size,
    )
