"""What labels say before any reward is known: how long preferred responses are, and where objectives disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np

from modpo.config.sources import RankedColumns, ScoredColumns
from modpo.config.tree import SweepConfig
from modpo.data.loading import LoadedData
from modpo.data.named import named_dataset
from modpo.data.pairs import PreferencePair
from modpo.errors import Problem

# Enough for shares with an error of a few tenths of a percent, whatever the size of the data.
LOOKED_AT = 50_000
PERCENTILES = (50, 95, 100)
MOSTLY_LONGER = 0.8
SOME_CONFLICT = 0.1


@dataclass(frozen=True)
class Agreement:
    """Comparisons of the same two responses that two objectives label both.

    Attributes:
        conflict: share of them on which the labels disagree.
    """

    first: str
    second: str
    comparisons: int
    conflict: float


@dataclass(frozen=True)
class LabelFacts:
    """Of each objective with pairs.

    Attributes:
        characters: percentiles of the length of a response.
        longer_chosen: share of pairs whose chosen response is the longer one, a tie being half.
    """

    characters: Mapping[str, Mapping[int, int]]
    longer_chosen: Mapping[str, float]
    agreements: tuple[Agreement, ...]


def label_facts(data: LoadedData) -> LabelFacts:
    """Looks at the first 50,000 pairs of each objective."""
    characters: dict[str, dict[int, int]] = {}
    longer: dict[str, float] = {}
    labels: dict[str, dict[int, bool]] = {}
    for name, loaded in data.objectives.items():
        lengths: list[tuple[int, int]] = []
        labels[name] = {}
        for pair in islice(loaded.pairs, LOOKED_AT):
            lengths.append((len(pair.chosen), len(pair.rejected)))
            comparison, label = _comparison(pair)
            labels[name][comparison] = label
        if lengths:
            chosen, rejected = np.array(lengths).T
            longer[name] = float(np.mean(chosen > rejected) + np.mean(chosen == rejected) / 2)
            both = np.concatenate([chosen, rejected])
            characters[name] = {p: int(np.percentile(both, p, method="higher")) for p in PERCENTILES}
    return LabelFacts(characters, longer, tuple(_agreements(labels)))


def _comparison(pair: PreferencePair) -> tuple[int, bool]:
    """A number for the two responses in either order, and whether the chosen one comes first in the alphabet.

    The number is Python's own hash: many times faster than a digest, and compared within this process only.
    """
    return hash((pair.prompt, *sorted((pair.chosen, pair.rejected)))), pair.chosen < pair.rejected


def _agreements(labels: Mapping[str, Mapping[int, bool]]) -> Iterator[Agreement]:
    for (first, ours), (second, theirs) in combinations(labels.items(), 2):
        both = ours.keys() & theirs.keys()
        if both:
            yield Agreement(first, second, len(both), sum(ours[key] != theirs[key] for key in both) / len(both))


def warn_of_labels(config: SweepConfig, facts: LabelFacts) -> Iterator[Problem]:
    """Reasons for doubt that the labels alone give."""
    for name, share in facts.longer_chosen.items():
        side, most = ("longer", share) if share > 0.5 else ("shorter", 1 - share)
        if most >= MOSTLY_LONGER:
            yield Problem(
                code="MS-717",
                what=f"the labels of {name!r} are nearly those of length",
                where=f"objectives ({name}).pairs",
                got=f"the chosen response is the {side} one in {most:.0%}",
                wanted=f"below {MOSTLY_LONGER:.0%}",
                remedy="watch the lengths in the report, or add length as an objective of its own",
            )
    if config.training.loss_type not in ("soft", "regression"):
        yield from _warn_of_scores(config, facts)


def _warn_of_scores(config: SweepConfig, facts: LabelFacts) -> Iterator[Problem]:
    """Pairs formed from scores always go to the higher one: that is wrong where objectives disagree."""
    for agreement in facts.agreements:
        formed = [name for name in (agreement.first, agreement.second) if _is_formed_from_scores(config, name)]
        if formed and agreement.conflict >= SOME_CONFLICT:
            yield Problem(
                code="MS-718",
                what="labels that always follow the higher score disagree with another objective's",
                where=f"objectives ({', '.join(formed)}).pairs",
                got=f"{agreement.first} and {agreement.second} disagree on {agreement.conflict:.0%} of the "
                f"{agreement.comparisons} comparisons that both have",
                wanted="labels that are draws, where objectives disagree",
                remedy="scores of people are noisy, and so as good as draws; for those of a model take "
                "`loss_type: soft`, or have `label` draw the pairs",
            )


def _is_formed_from_scores(config: SweepConfig, name: str) -> bool:
    pairs = config.objective(name).pairs
    if pairs is None:
        return False
    form = pairs.form
    if pairs.named is not None:
        form = named_dataset(pairs.named.dataset).form(pairs.named.dimension, pairs.named)
    return isinstance(form, ScoredColumns | RankedColumns)
