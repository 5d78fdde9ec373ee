"""What became of the rows of a source, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from modpo.errors import Problem

LISTED_PROBLEMS = 20


@dataclass
class PairCounts:
    """What became of the rows of one source: nothing is dropped without being counted here.

    Attributes:
        rows: rows read.
        pairs: pairs formed.
        ties: comparisons without a preference, by label or by a score gap within `min_gap`.
        missing: comparisons or responses without a label or score.
        duplicates: pairs that stand there already: kept, as draws of their own.
        conflicting: pairs whose responses stand there with the opposite label: kept as well.
        implicit_prompts: pairs whose prompt was taken from what both responses begin with.
        unusable: rows with an empty text or two equal responses, where those may be dropped.
        too_long: pairs beyond `data.max_length`, left out by `prepare`.
        truncated: pairs cut to it by `prepare`.
    """

    rows: int = 0
    pairs: int = 0
    ties: int = 0
    missing: int = 0
    duplicates: int = 0
    conflicting: int = 0
    implicit_prompts: int = 0
    unusable: int = 0
    too_long: int = 0
    truncated: int = 0

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


class Problems:
    """The first problems of each kind, and how many more there were: a broken file of a million rows fits in memory."""

    def __init__(self) -> None:
        self._listed: list[Problem] = []
        self._counts: Counter[str] = Counter()

    def add(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            self._counts[problem.code] += 1
            if self._counts[problem.code] <= LISTED_PROBLEMS:
                self._listed.append(problem)

    def all(self, place: str) -> list[Problem]:
        """Every listed problem, then a line for each kind that had more."""
        more = [(code, count - LISTED_PROBLEMS) for code, count in self._counts.items() if count > LISTED_PROBLEMS]
        return self._listed + [
            Problem(
                code="MS-246",
                what=f"{count} more rows have the fault {code}",
                where=place,
                remedy="mend the rows that are listed, and those like them",
            )
            for code, count in more
        ]
