"""What became of the rows of a source, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modpo.errors import MAX_SHOWN_PROBLEMS, Problem

# With the line that counts them, as many as a message shows.
LISTED_PROBLEMS = MAX_SHOWN_PROBLEMS - 1
COUNT_CODE = "MS-246"


@dataclass
class PairCounts:
    """What became of the rows of one source: nothing is dropped without being counted here.

    Attributes:
        rows: rows read.
        pairs: pairs formed.
        ties: comparisons without a preference, by label or by a score gap within `min_gap`.
        missing: comparisons or responses without a label or score.
        alone: scored responses, or ranked rows, with nothing of the same prompt to compare them with.
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
    alone: int = 0
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
        """A line for each kind that has more than are listed, then every listed problem."""
        many = [
            Problem(
                code=COUNT_CODE,
                what=f"the fault {code} is there {count} times, and only the first are listed",
                where=place,
                got=f"{count} times {code}",
                wanted="none",
                remedy="mend the rows that are listed, and those like them",
            )
            for code, count in self._counts.items()
            if count > LISTED_PROBLEMS
        ]
        return many + self._listed


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Each once, though two objectives may read one file; counts first, for a message shows only the beginning."""
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.code != COUNT_CODE)
