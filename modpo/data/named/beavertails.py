"""BeaverTails: single responses with a safety label and the categories of harm that annotators saw in them."""

from __future__ import annotations

from collections.abc import Iterable

from modpo.config.sources import ScoredColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, read


def by_safety(row: RawRow) -> Iterable[RawRow]:
    yield _scored(row, 1.0 if read(row, "is_safe", bool) else 0.0)


def by_categories(row: RawRow) -> Iterable[RawRow]:
    flags = read(row, "category", dict)
    yield _scored(row, -float(sum(read(flags, name, bool) for name in flags)))


def _scored(row: RawRow, score: float) -> RawRow:
    return {"prompt": read(row, "prompt", str), "response": read(row, "response", str), "score": score}


BEAVERTAILS = NamedDataset(
    name="beavertails",
    hub_id="PKU-Alignment/BeaverTails",
    home="https://huggingface.co/datasets/PKU-Alignment/BeaverTails",
    licence="CC BY-NC 4.0",
    dimensions={
        "safe": Dimension(
            prefers="safe; two safe or two unsafe responses are ties",
            form=ScoredColumns(score="score"),
            transform=by_safety,
        ),
        "categories": Dimension(
            prefers="fewer of the 14 categories of harm", form=ScoredColumns(score="score"), transform=by_categories
        ),
    },
    columns="`prompt`, `response`, `is_safe` (bool), `category` (14 names to bool)",
    checked="the card for licence and splits; column names by code that reads them; the repetitions from memory",
    traps=(
        "There is no `train` split: set `split` to `30k_train` or `330k_train`.",
        "330k repeats a response for each of its annotators, who may disagree: it then wins one pair and loses "
        "another. Repetitions of one text are never paired with each other.",
        "Many responses a prompt give many pairs: set `max_pairs_per_prompt`.",
    ),
)
