"""Learning rate and sample order as pure functions of the step: resuming needs nothing but the step number."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from modpo.config.optimisation import OptimisationConfig


def learning_rate(training: OptimisationConfig, *, step: int, num_steps: int) -> float:
    """Learning rate of optimiser step `step`, counted from 0: a linear rise, then the configured decay."""
    warmup = math.ceil(training.warmup_ratio * num_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, num_steps - warmup)
    decay = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[training.lr_scheduler_type]
    return training.learning_rate * decay


def num_optimiser_steps(training: OptimisationConfig, *, num_rows: int, global_batch_size: int) -> int:
    """Steps of the whole training: `max_steps`, or as many as the epochs need, rounded up."""
    if training.max_steps is not None:
        return training.max_steps
    return max(1, math.ceil(num_rows * training.num_train_epochs / global_batch_size))


class SampleOrder:
    """An endless stream of shuffled passes over the rows, the same for every rank, weight vector and world size.

    A batch may reach over the end of a pass, so no row is dropped.
    """

    def __init__(self, num_rows: int, *, seed: int) -> None:
        self.num_rows, self.seed = num_rows, seed
        self._permutation = lru_cache(maxsize=2)(self._shuffled)

    def indices(self, start: int, count: int) -> list[int]:
        """Rows at positions start .. start + count of the stream."""
        return [
            int(self._permutation(position // self.num_rows)[position % self.num_rows])
            for position in range(start, start + count)
        ]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        """An array: a list of as many integers would take five times its memory."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order: NDArray[np.int64] = torch.randperm(self.num_rows, generator=generator).numpy()
        return order
