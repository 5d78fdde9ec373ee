"""What rewards and labels say about each other on the annotated pairs, before any trial trains on them.

Shapes: N pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import ImplicitReward, TrainedReward
from modpo.config.tree import SweepConfig
from modpo.errors import Problem
from modpo.rewards.quality import pair_accuracy

Floats = NDArray[np.float64]
Figures = dict[str, Any]

# Not those of `evaluation`: they may change in a run without making its annotation again.
LEVEL, RESAMPLES = 0.95, 1000

# A label that Bradley-Terry would draw the same way this often is as good as deterministic.
NEARLY_CERTAIN = 0.99
# How far agreement with the reward may exceed that of drawn labels, and what conflict makes it matter.
BEYOND_DRAWS, SOME_CONFLICT = 0.05, 0.1
LARGEST_RATIO = 100.0
# Of the gaps over beta: the change of log pi / pi_ref, in nats, that the reward asks for.
SMALLEST_SPREAD, LARGEST_SPREAD = 0.1, 50.0
MOSTLY_CERTAIN = 0.5
LABEL_LOSSES = ("sigmoid", "hinge", "ipo")


@dataclass(frozen=True)
class JudgedPairs:
    """N annotated pairs of all objectives.

    Attributes:
        objectives: whose pair each one is.
        prompts: the prompt of each, as one text.
        held_out: (N,) whether no trial trains on it.
        gaps: for each objective (N,) reward of chosen minus rejected, raw units, higher is better; NaN where unknown.
    """

    objectives: Sequence[str]
    prompts: Sequence[str]
    held_out: NDArray[np.bool_]
    gaps: Mapping[str, Floats]

    def rows(self, objective: str) -> NDArray[np.bool_]:
        """(N,) which pairs are of this objective."""
        return np.array([name == objective for name in self.objectives], dtype=bool)


def meaning_of(config: SweepConfig, pairs: JudgedPairs, units: Mapping[str, float]) -> Figures:
    """The figures of each reward, and every warning that follows from them; docs/summary.md describes the keys."""
    rewards = {objective.name: _figures(config, objective, pairs, units) for objective in config.objectives}
    return {"rewards": rewards, "warnings": [asdict(problem) for problem in _warnings(config, rewards)]}


def _figures(
    config: SweepConfig, objective: ObjectiveConfig, pairs: JudgedPairs, units: Mapping[str, float]
) -> Figures:
    name, unit = objective.name, units[objective.name]
    gaps = pairs.gaps[name]
    known = np.isfinite(gaps)
    spread = float(np.sqrt(np.mean((gaps[known] / unit) ** 2))) if known.any() else None
    return {
        "unit": unit,
        "accuracy": _accuracy(config, objective, pairs),
        **_labels(config, objective, pairs, unit),
        "spread_over_beta": None if spread is None else spread / config.training.beta,
        "conflict": {
            other.name: float(np.mean(_wrong(gaps[rows])))
            for other in config.objectives
            if other.name != name and (rows := pairs.rows(other.name) & known).any()
        },
    }


def _accuracy(config: SweepConfig, objective: ObjectiveConfig, pairs: JudgedPairs) -> dict[str, float] | None:
    """Share of the objective's own pairs whose chosen side its reward prefers; None without such pairs."""
    rows = pairs.rows(objective.name) & np.isfinite(pairs.gaps[objective.name])
    if _learned_from_pairs(objective) or isinstance(objective.reward, TrainedReward):
        # On what it was trained on, pairs or the numbers of these responses, it would be right by heart.
        rows &= pairs.held_out
    if not rows.any():
        return None
    return pair_accuracy(
        pairs.gaps[objective.name][rows],
        [pairs.prompts[row] for row in np.flatnonzero(rows).tolist()],
        seed=config.seed,
        level=LEVEL,
        resamples=RESAMPLES,
    )


def _labels(config: SweepConfig, objective: ObjectiveConfig, pairs: JudgedPairs, unit: float) -> Figures:
    """What an independent reward says of its own labels; unknown where the reward was learned from them.

    `drawn_accuracy` is how often labels that are DRAWN from this reward would agree with it, the mean of
    sigmoid(|gap|); `deterministic` is the share of pairs where that is almost certain.
    """
    gaps = pairs.gaps[objective.name]
    rows = pairs.rows(objective.name) & np.isfinite(gaps)
    if _learned_from_pairs(objective) or not rows.any():
        return {"drawn_accuracy": None, "deterministic": None}
    # Labels of people are in raw units; those that the label stage drew are in the declared one.
    label_unit = unit if objective.name in config.labelled() else 1.0
    agreement = 1 / (1 + np.exp(-np.abs(gaps[rows]) / label_unit))
    return {
        "drawn_accuracy": float(agreement.mean()),
        "deterministic": float(np.mean(agreement > NEARLY_CERTAIN)),
    }


def _learned_from_pairs(objective: ObjectiveConfig) -> bool:
    reward = objective.reward
    if isinstance(reward, TrainedReward):
        return reward.loss == "bradley-terry"
    return reward is None or (isinstance(reward, ImplicitReward) and reward.adapter is None)


def _wrong(gaps: Floats) -> Floats:
    """1 where a reward prefers the rejected side, one half for a tie."""
    return np.where(gaps == 0, 0.5, (gaps < 0).astype(float))


def _warnings(config: SweepConfig, rewards: Mapping[str, Figures]) -> Iterator[Problem]:
    for objective in config.objectives:
        figures = rewards[objective.name]
        yield from _warn_of_sign(objective.name, figures["accuracy"])
        yield from _warn_of_argmax(config, objective.name, rewards)
        yield from _warn_of_spread(objective.name, figures["spread_over_beta"])
    yield from _warn_of_scales(rewards)


def _warn_of_sign(name: str, accuracy: Mapping[str, float] | None) -> Iterator[Problem]:
    if accuracy is None or accuracy["low"] > 0.5:
        return
    got = "the chosen side preferred in {value:.0%} [{low:.0%}, {high:.0%}]".format(**accuracy)
    if accuracy["high"] < 0.5:
        yield Problem(
            code="MS-711",
            what=f"the sign of the reward of {name!r} looks flipped: it prefers what its own pairs reject",
            where=f"objectives ({name})",
            got=got,
            wanted="more than half",
            remedy="set `direction: minimize` if its numbers are costs, or see whether chosen and rejected are swapped",
        )
    else:
        yield Problem(
            code="MS-712",
            what=f"the reward of {name!r} does not tell the two sides of its own pairs apart",
            where=f"objectives ({name})",
            got=got,
            wanted="an interval above 50%",
            remedy="give it more pairs or a better reward: as a margin it is noise",
        )


def _warn_of_argmax(config: SweepConfig, name: str, rewards: Mapping[str, Figures]) -> Iterator[Problem]:
    figures = rewards[name]
    accuracy, drawn = figures["accuracy"], figures["drawn_accuracy"]
    conflict = max((other["conflict"].get(name, 0.0) for other in rewards.values()), default=0.0)
    if accuracy is None or drawn is None or conflict < SOME_CONFLICT or config.training.loss_type not in LABEL_LOSSES:
        return
    no_draws = accuracy["low"] > drawn and accuracy["value"] > drawn + BEYOND_DRAWS
    if no_draws or figures["deterministic"] > MOSTLY_CERTAIN:
        yield Problem(
            code="MS-713",
            what=f"labels of {name!r} go to the higher reward for certain, also where other objectives disagree",
            where=f"objectives ({name})",
            got=f"{accuracy['value']:.0%} agree with the reward, {drawn:.0%} would if they were draws, "
            f"{figures['deterministic']:.0%} are certain; conflict {conflict:.0%}",
            wanted="labels drawn with probability sigmoid(reward gap): else the optimum moves the wrong way",
            remedy="set `training.loss_type: soft`, or have `label` draw the pairs",
        )


def _warn_of_spread(name: str, spread: float | None) -> Iterator[Problem]:
    if spread is None or SMALLEST_SPREAD <= spread <= LARGEST_SPREAD:
        return
    small = spread < SMALLEST_SPREAD
    yield Problem(
        code="MS-714" if small else "MS-715",
        what=f"the reward of {name!r} is {'small' if small else 'large'} beside beta",
        where="training.beta",
        got=f"gaps of {spread:.3g} beta: the most it can change a log-probability ratio by, in nats, at weight 1",
        wanted=f"{SMALLEST_SPREAD:g} to {LARGEST_SPREAD:g}",
        remedy=f"{'lower' if small else 'raise'} training.beta, or set `normalize: std` for {name}",
    )


def _warn_of_scales(rewards: Mapping[str, Figures]) -> Iterator[Problem]:
    spreads = {name: reward["spread_over_beta"] for name, reward in rewards.items() if reward["spread_over_beta"]}
    if len(spreads) < 2:
        return
    small, large = min(spreads, key=spreads.__getitem__), max(spreads, key=spreads.__getitem__)
    ratio = spreads[large] / spreads[small]
    if ratio > LARGEST_RATIO:
        yield Problem(
            code="MS-716",
            what=f"the rewards of {large!r} and {small!r} are on very different scales, so equal weights are not equal",
            where="objectives",
            got=f"gaps {ratio:.3g} times as large",
            wanted=f"at most {LARGEST_RATIO:g} times",
            remedy="set `normalize: std` for both, or declare a `unit`",
        )
