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
from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import FunctionReward
from modpo.config.spec import TrialSpec
from modpo.config.tree import SweepConfig
from modpo.core.weights import WeightVector, auto_primary, vertex

PLAN_VERSION = 1

# The margin rewards come from the vertices: their seed must not follow the sweep's.
VERTEX_SEED = 0

# Sections that may change in a run directory that already exists: they add points or measure again.
FREE_SECTIONS = ("sweep", "resources", "trackers", "evaluation", "name", "storage_path")


@dataclass(frozen=True)
class Inputs:
    """Content that a config names but does not hold.

    Attributes:
        data: digest of all rows.
        model: digest of the start model's files, or its hub id and revision.
        files: digest of everything else that is named: source of each `module:function`, adapters, DeepSpeed files.
    """

    data: str
    model: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class SweepPlan:
    """Digests of the stages and all trials; `vertices` by objective name, `points` in the order of the weights.

    Attributes:
        measurement: digest of everything that points are measured with.
    """

    prepared: str
    start_model: str
    reference: str
    rewards: str
    measurement: str
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
    training = [
        reference,
        config.training.model_dump(mode="json", exclude={"beta": True, "deepspeed": {"config_file"}}),
        inputs.files.get(config.training.deepspeed.config_file or "", ""),
        _lora(config),
        # The batch of one device is given, so their number changes the batch that is trained on.
        config.resources.num_workers,
    ]
    vertices = {
        o.name: _trial(config, vertex(len(config.objectives), index), config.vertex_beta(o), VERTEX_SEED, training)
        for index, o in enumerate(config.objectives)
        if o.pairs is not None
    }
    scoring = [_reward_key(config, objective, inputs, vertices) for objective in config.objectives]
    rewards = digest_of([reference, scoring])
    evaluation = config.evaluation.model_dump(mode="json")
    enumerated = inputs.files.get(config.evaluation.enumerate or "", "")
    measurement = digest_of([PLAN_VERSION, rewards, evaluation, enumerated, _units(config), config.seed])
    points = tuple(
        _trial(config, weights, beta, seed, training if max(weights) == 1.0 else [*training, rewards])
        for weights in weight_vectors(config)
        for beta in dict.fromkeys(config.sweep.betas or (config.training.beta,))
        for seed in dict.fromkeys(config.sweep.seeds)
    )
    return SweepPlan(prepared, start_model, reference, rewards, measurement, vertices, points)


def _trial(config: SweepConfig, weights: WeightVector, beta: float, seed: int, depends_on: list[Any]) -> TrialSpec:
    primary = auto_primary(weights, primary_candidates(config, weights))
    key = digest_of([depends_on, weights, _units(config), primary, beta, seed])[:8]
    mixture = "-".join(f"{name[:12]}{weight:.3g}" for name, weight in zip(config.objective_names, weights, strict=True))
    return TrialSpec(
        trial_id=f"{mixture}_b{beta:g}_s{seed}_{key}", weights=weights, primary=primary, beta=beta, seed=seed
    )


def _units(config: SweepConfig) -> list[float]:
    return [objective.unit for objective in config.objectives]


def _lora(config: SweepConfig) -> dict[str, Any] | None:
    return config.model.lora.model_dump(mode="json") if config.model.lora else None


def _reward_key(
    config: SweepConfig, objective: ObjectiveConfig, inputs: Inputs, vertices: Mapping[str, TrialSpec]
) -> list[Any]:
    """Everything that an objective's margin rewards depend on."""
    implicit = config.implicit_reward(objective)
    if isinstance(objective.reward, FunctionReward):
        return [objective.reward.function, objective.direction, inputs.files.get(objective.reward.function, "")]
    assert implicit is not None, "a reward is a function or implicit"
    if implicit.adapter is not None:
        return [implicit.adapter_beta, inputs.files.get(implicit.adapter, "")]
    return [vertices[objective.name].trial_id, objective.unit, config.vertex_beta(objective)]
