"""What training steps do, and what the devices could have done meanwhile: plain numbers that add up.

They add up over micro-batches, ranks, steps and attempts. None stands for what is not known, and so does a sum with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Workload:
    """What rows of trees ask of a model.

    Attributes:
        tokens: tokens that stand in the rows, a prompt once for all responses that share it.
        padded_tokens: tokens of the same sequences, each with a prompt of its own and as long as the longest beside it.
        flops: operations that an exact step cannot do without.
    """

    tokens: int | None = 0
    padded_tokens: int | None = 0
    flops: int | None = 0

    def __add__(self, other: Workload) -> Workload:
        return Workload(
            tokens=_sum(self.tokens, other.tokens),
            padded_tokens=_sum(self.padded_tokens, other.padded_tokens),
            flops=_sum(self.flops, other.flops),
        )

    def as_floats(self) -> list[float]:
        """For a sum over ranks: NaN stands for what is not known, and stays it in every sum."""
        return [math.nan if count is None else float(count) for count in astuple(self)]

    @classmethod
    def from_floats(cls, counts: Sequence[float]) -> Workload:
        """Exact up to 2^53, and beyond that to sixteen digits."""
        return cls(*(None if math.isnan(count) else int(count) for count in counts))


UNKNOWN_WORKLOAD = Workload(tokens=None, padded_tokens=None, flops=None)


@dataclass(frozen=True)
class StepTotals:
    """The workload of optimiser steps over all devices, and what these spent on it.

    Attributes:
        device_seconds: wall-clock seconds inside the steps times devices.
        peak_flops: operations of a large matrix product that the devices could have done in these seconds.
        skipped_steps: those that left the weights as they were, because a gradient was not finite.
    """

    tokens: int | None = 0
    padded_tokens: int | None = 0
    flops: int | None = 0
    device_seconds: float | None = 0.0
    peak_flops: float | None = 0.0
    skipped_steps: int = 0

    def __add__(self, other: StepTotals) -> StepTotals:
        return StepTotals(
            tokens=_sum(self.tokens, other.tokens),
            padded_tokens=_sum(self.padded_tokens, other.padded_tokens),
            flops=_sum(self.flops, other.flops),
            device_seconds=_sum(self.device_seconds, other.device_seconds),
            peak_flops=_sum(self.peak_flops, other.peak_flops),
            skipped_steps=self.skipped_steps + other.skipped_steps,
        )

    def part(self, count: int) -> StepTotals:
        """One of `count` equal parts, of trainings that had their steps in common."""
        return StepTotals(
            tokens=None if self.tokens is None else self.tokens // count,
            padded_tokens=None if self.padded_tokens is None else self.padded_tokens // count,
            flops=None if self.flops is None else self.flops // count,
            device_seconds=_ratio(self.device_seconds, count),
            peak_flops=_ratio(self.peak_flops, count),
            skipped_steps=self.skipped_steps,
        )

    @property
    def padded_ratio(self) -> float | None:
        """Tokens that a padded batch would have had, for each one that was in a row."""
        return _ratio(self.padded_tokens, self.tokens)

    @property
    def tokens_per_device_second(self) -> float | None:
        return _ratio(self.tokens, self.device_seconds)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: necessary operations over those that the devices could have done."""
        return _ratio(self.flops, self.peak_flops)


UNKNOWN_TOTALS = StepTotals(tokens=None, padded_tokens=None, flops=None, device_seconds=None, peak_flops=None)


def step_totals(
    workload: Workload, *, seconds: float, num_devices: int, peak_flops_per_second: float | None
) -> StepTotals:
    """One step of so many wall-clock seconds.

    Args:
        peak_flops_per_second: of one device.
    """
    spent = seconds * num_devices
    peak = None if peak_flops_per_second is None else spent * peak_flops_per_second
    return StepTotals(workload.tokens, workload.padded_tokens, workload.flops, spent, peak)


def step_rates(step: StepTotals, *, seconds: float) -> dict[str, float]:
    """Metrics of one step, without those that are not known; what is counted a second is counted over all devices."""
    rates = {
        "perf/tokens_per_s": _ratio(step.tokens, seconds),
        "perf/padded_ratio": step.padded_ratio,
        "perf/flops_per_s": _ratio(step.flops, seconds),
        "perf/mfu": step.mfu,
    }
    return {name: rate for name, rate in rates.items() if rate is not None}


def _sum(one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else one + other


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
