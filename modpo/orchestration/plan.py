"""What a sweep consists of: every trial and the digest of every stage, as pure values.

A digest covers everything that the stage's output depends on, through the digests of the stages before it; so a stage
is present or it is not, and a changed setting misses exactly the stages that it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modpo.artifacts import digest_of
from modpo.config.checks import primary_candidates, weight_vectors
from modpo.config.spec import TrialSpec
from modpo.config.tree import ObjectiveConfig, SweepConfig
from modpo.core.weights import WeightVector, auto_primary, vertex

PLAN_VERSION = 1

# Sections that may change in a run directory that already exists: they add points or measure again.
FREE_SECTIONS = ("sweep", "resources", "trackers", "evaluation", "name", "storage_path")


@dataclass(frozen=True)
class Inputs:
    """Content that a config names but does not hold.

    Attributes:
        data: digest of all rows.
        model: digest of the start model's files, or its hub id and revision.
        functions: source digest of each `module:function`.
    """

    data: str
    model: str
    functions: Mapping[str, str]


@dataclass(frozen=True)
class SweepPlan:
    """Digests of the stages and all trials; `vertices` by objective name, `points` in the order of the weights."""

    prepared: str
    start_model: str
    reference: str
    rewards: str
    vertices: dict[str, TrialSpec]
    points: tuple[TrialSpec, ...]

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """Every trial once: a vertex that is also a point of the sweep is trained once and serves both."""
        return tuple({t.trial_id: t for t in (*self.vertices.values(), *self.points)}.values())


def identity_digest(config: SweepConfig) -> str:
    """Digest of the sections that a run directory is bound to."""
    return digest_of(config.model_dump(mode="json", exclude=set(FREE_SECTIONS)))


def plan_sweep(config: SweepConfig, inputs: Inputs) -> SweepPlan:
    """All trials of a checked config."""
    model = [inputs.model, config.model.dtype, config.model.attn_implementation]
    sft = config.sft.model_dump(mode="json") if config.sft else None
    prepared = digest_of([PLAN_VERSION, inputs.data, inputs.model, config.data.model_dump(), config.seed, bool(sft)])
    start_model = digest_of([prepared, model, sft]) if sft else digest_of([model])
    reference = digest_of([prepared, start_model, model])
    training = [reference, config.training.model_dump(mode="json", exclude={"beta"}), _lora(config)]
    vertices = {
        objective.name: _trial(
            config, vertex(len(config.objectives), index), config.vertex_beta(objective), 0, training
        )
        for index, objective in enumerate(config.objectives)
        if objective.pairs is not None
    }
    rewards = digest_of([reference, [_reward_key(config, o, inputs, vertices) for o in config.objectives]])
    points = tuple(
        _trial(config, weights, beta, seed, training if max(weights) == 1.0 else [*training, rewards])
        for weights in weight_vectors(config)
        for beta in config.sweep.betas or (config.training.beta,)
        for seed in config.sweep.seeds
    )
    return SweepPlan(prepared, start_model, reference, rewards, vertices, points)


def _trial(config: SweepConfig, weights: WeightVector, beta: float, seed: int, depends_on: list[Any]) -> TrialSpec:
    primary = auto_primary(weights, primary_candidates(config, weights))
    units = [objective.unit for objective in config.objectives]
    key = digest_of([depends_on, weights, units, primary, beta, seed])[:8]
    mixture = "-".join(f"{name[:12]}{weight:.3g}" for name, weight in zip(config.objective_names, weights, strict=True))
    return TrialSpec(
        trial_id=f"{mixture}_b{beta:g}_s{seed}_{key}", weights=weights, primary=primary, beta=beta, seed=seed
    )


def _lora(config: SweepConfig) -> dict[str, Any] | None:
    return config.model.lora.model_dump(mode="json") if config.model.lora else None


def _reward_key(
    config: SweepConfig, objective: ObjectiveConfig, inputs: Inputs, vertices: Mapping[str, TrialSpec]
) -> list[Any]:
    """Everything that an objective's margin rewards depend on."""
    implicit = config.implicit_reward(objective)
    if implicit is None:
        return [
            objective.reward.model_dump(mode="json") if objective.reward else None,
            objective.direction,
            dict(inputs.functions),
        ]
    if implicit.adapter is not None:
        return [implicit.model_dump(mode="json"), inputs.functions.get(implicit.adapter, "")]
    return [vertices[objective.name].trial_id, objective.unit, config.vertex_beta(objective)]
