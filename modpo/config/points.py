"""Which weight vectors a sweep has, and whose pairs can train each of them."""

from __future__ import annotations

from collections.abc import Mapping

from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import ColumnsReward
from modpo.config.tree import SweepConfig
from modpo.core.weights import WeightVector, eligible_primaries, regression_sources, simplex_lattice

ColumnRewards = Mapping[str, frozenset[str]]
"""For each objective with pairs: the objectives whose rewards stand in the rows of those pairs."""


def weight_vectors(config: SweepConfig) -> list[WeightVector]:
    """The sweep's weight vectors in the order of the objectives, as configured and without duplicates."""
    names, weights = config.objective_names, config.sweep.weights
    if weights.list is not None:
        vectors = [tuple(float(entry.get(name, 0.0)) for name in names) for entry in weights.list]
    else:
        vectors = simplex_lattice(len(names), weights.lattice or 1)
    return list(dict.fromkeys(vectors))


def scored_on(config: SweepConfig, column_rewards: ColumnRewards | None = None) -> dict[int, frozenset[int]]:
    """For each objective with pairs, the objectives that have a reward on the responses of its pairs, by index.

    Args:
        column_rewards: which rewards stand in the rows of each objective's pairs; all, before the data is read.
    """

    def has_reward(source: ObjectiveConfig, other: ObjectiveConfig) -> bool:
        if not isinstance(other.reward, ColumnsReward):
            return config.has_reward(other)
        # Responses that the label stage samples have no columns.
        given = source.pairs is not None
        return given and (column_rewards is None or other.name in column_rewards.get(source.name, frozenset()))

    return {
        k: frozenset(j for j, other in enumerate(config.objectives) if has_reward(source, other))
        for k, source in enumerate(config.objectives)
        if config.has_pairs(source)
    }


def primary_candidates(
    config: SweepConfig, weights: WeightVector, column_rewards: ColumnRewards | None = None
) -> tuple[int, ...]:
    """Objectives that may label the loss at these weights, honouring `sweep.primary`."""
    scored = scored_on(config, column_rewards)
    eligible = eligible_primaries(weights, scored)
    if config.training.loss_type == "soft":
        # The labels' probabilities come from the primary's own reward.
        eligible = tuple(k for k in eligible if k in scored[k])
    if config.sweep.primary == "auto":
        return eligible
    fixed = config.objective_names.index(config.sweep.primary)
    # A fixed primary cannot train the vertices of the others: those stay plain DPO on their own pairs.
    return tuple(k for k in eligible if k == fixed or weights[k] == 1.0)


def training_sources(
    config: SweepConfig, weights: WeightVector, column_rewards: ColumnRewards | None = None
) -> tuple[int, ...]:
    """Objectives whose pairs can train a point: its possible primaries, or all scored pairs for a regression."""
    if config.training.loss_type == "regression":
        return regression_sources(weights, scored_on(config, column_rewards))
    return primary_candidates(config, weights, column_rewards)
