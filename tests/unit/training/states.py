"""Training states for the tests of checkpoints, and checkpoints of two ranks in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modpo.core.workload import StepTotals
from modpo.training.checkpoint import Checkpoints, TrainingState

TOTALS = StepTotals(tokens=120, padded_tokens=200, flops=2**60 + 1, device_seconds=1.25, peak_flops=None)


def state(step: int, *, size: int = 4) -> TrainingState:
    """Of two parameters with random numbers that the step decides."""
    generator = torch.Generator().manual_seed(step)
    parameters = {"a.weight": torch.randn(size, size, generator=generator), "b": torch.randn(2, generator=generator)}
    moments = {
        f"{name}.{moment}": tensor * 2 for name, tensor in parameters.items() for moment in ("exp_avg", "exp_avg_sq")
    }
    return TrainingState(step, parameters, moments, totals=TOTALS)


def of_two_ranks(root: Path, training: str = "trial") -> Checkpoints:
    """The checkpoints as rank 0 writes them; the other rank has drawn other numbers."""

    def gather(value: Any) -> list[Any]:
        return [value, None if value is None else {name: tensor.flip(0) for name, tensor in value.items()}]

    return Checkpoints(root, training, gather=gather)
