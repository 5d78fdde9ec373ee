"""What the scoreboard holds: figures with their bars, and where each is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Say = Callable[[str], None]
"""Takes a line on how a measurement goes."""


@dataclass(frozen=True)
class Figure:
    """A measured number and how it should stand to its bar."""

    value: float
    bar: float
    sense: Literal["at least", "at most"]

    @property
    def passed(self) -> bool:
        """False for what is no number."""
        return self.value >= self.bar if self.sense == "at least" else self.value <= self.bar

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "bar": self.bar, "sense": self.sense, "passed": self.passed}


def bar(figure: Mapping[str, Any]) -> str:
    """How a stored figure should stand to its bar."""
    return f"{'≥' if figure['sense'] == 'at least' else '≤'} {figure['bar']:g}"


@dataclass(frozen=True)
class Options:
    """How much is measured, and where.

    Attributes:
        kills: how many processes are killed.
        seed: fixes which, and when.
        folder: takes the runs of this part; empty at first.
        shared: has the undisturbed runs, for all parts.
    """

    kills: int
    seed: int
    folder: Path
    shared: Path
    say: Say


@dataclass(frozen=True)
class Measured:
    """What one part of the scoreboard gives: its figures by name, and the rows that they were counted from."""

    figures: dict[str, Figure]
    rows: list[dict[str, Any]] = field(default_factory=list)


class Measure(Protocol):
    """A module of a part of the scoreboard has one of these, called `measure`."""

    def __call__(self, options: Options) -> Measured: ...


MEASURES = {
    "corruption": "benchmarks.reliability.corruption",
    "artefacts": "benchmarks.reliability.spoiled_runs",
    "overhead": "benchmarks.reliability.overhead",
    "winners": "benchmarks.reliability.winners",
    "inputs": "benchmarks.reliability.inputs",
    "stale": "benchmarks.reliability.stale",
    "elastic": "benchmarks.reliability.elastic",
    "canaries": "benchmarks.reliability.canaries",
    "notice": "benchmarks.reliability.notice",
    "kills": "benchmarks.reliability.kills",
}
"""By name, in the order in which they run. A part that cannot be measured yet does not stand here."""
