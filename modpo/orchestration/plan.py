"""What a sweep consists of: every trial and the digest of every stage, as pure values.

A digest covers everything that the stage's output depends on, through the digests of the stages before it; so a stage
is present or it is not, and a changed setting misses exactly the stages that it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modpo.artifacts import digest_of
from modpo.config.objectives import ObjectiveConfig
from modpo.config.points import training_sources, weight_vectors
from modpo.config.rewards import TrainedReward
from modpo.config.spec import TrialSpec
from modpo.config.tree import SweepConfig
from modpo.core.weights import WeightVector, auto_primary, vertex
from modpo.orchestration.digests import (
    Inputs,
    Key,
    implicit_key,
    key_of,
    labelled_key,
    measurement_key,
    prepared_key,
    reference_key,
    scorer_key,
    start_model_key,
    trained_reward_key,
    training_key,
    units_key,
)

__all__ = ["FREE_SECTIONS", "Inputs", "SweepPlan", "identity_digest", "plan_sweep"]

# The margin rewards come from the vertices: their seed must not follow the sweep's.
VERTEX_SEED = 0

LONGEST_MIXTURE = 160

# Sections that may change in a run directory that already exists: they add points or measure again.
FREE_SECTIONS = ("sweep", "resources", "trackers", "evaluation", "name", "storage_path")


@dataclass(frozen=True)
class SweepPlan:
    """Digests of the stages and all trials; `points` in the order of the weights.

    Attributes:
        keys: what each stage of the pipeline depends on, by the stage's name.
        reward_models: by objective, of the reward models that the run trains.
        labelled: empty where no pairs are made.
        measurement: digest of everything that points are measured with.
        vertices: by objective: DPO models that an implicit reward comes from, or that are points of the sweep too.
    """

    prepared: str
    start_model: str
    reward_models: dict[str, str]
    labelled: str
    reference: str
    rewards: str
    measurement: str
    vertices: dict[str, TrialSpec]
    points: tuple[TrialSpec, ...]
    keys: Mapping[str, Key]

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """Every trial once: a vertex that is also a point of the sweep is trained once and serves both."""
        return tuple({t.trial_id: t for t in (*self.vertices.values(), *self.points)}.values())


def identity_digest(config: SweepConfig) -> str:
    """Digest of the sections that a run directory is bound to."""
    return digest_of(config.model_dump(mode="json", exclude=set(FREE_SECTIONS)))


def plan_sweep(config: SweepConfig, inputs: Inputs) -> SweepPlan:
    """All trials of a checked config."""
    prepared = prepared_key(config, inputs)
    start_model = start_model_key(config, inputs, prepared)
    training, units = training_key(config, inputs), units_key(config)
    reward_models = {
        objective.name: prepared | start_model | trained_reward_key(config, objective.name, objective.reward, inputs)
        for objective in config.objectives
        if isinstance(objective.reward, TrainedReward)
    }
    trained = {name: digest_of(key) for name, key in reward_models.items()}
    scorers = _joined(scorer_key(objective, inputs, trained) for objective in config.objectives)
    labelled = prepared | start_model | units | scorers | labelled_key(config) if config.label else {}
    reference = reference_key(labelled or prepared, start_model)
    declared = key_of({f"unit of {objective.name}": objective.unit for objective in config.objectives})
    planner = _Planner(config, inputs, reference | training | declared)
    vertices = {o.name: planner.vertex(o) for o in config.objectives if config.has_pairs(o)}
    implicit = _joined(implicit_key(config, o, inputs, vertices=vertices, training=training) for o in config.objectives)
    rewards = reference | units | scorers | implicit
    points = tuple(
        planner.point(weights, beta, seed, rewards)
        for weights in weight_vectors(config)
        for beta in dict.fromkeys(config.sweep.betas or (config.training.beta,))
        for seed in dict.fromkeys(config.sweep.seeds)
    )
    measurement = rewards | measurement_key(config, inputs)
    return SweepPlan(
        prepared=digest_of(prepared),
        start_model=digest_of(start_model),
        reward_models=trained,
        labelled=digest_of(labelled) if labelled else "",
        reference=digest_of(reference),
        rewards=digest_of(rewards),
        measurement=digest_of(measurement),
        vertices=_needed_vertices(config, vertices, points),
        points=points,
        keys={
            "prepare": prepared,
            "sft": start_model,
            "reward_models": _joined(reward_models.values()),
            "label": labelled,
            "reference": reference,
            "vertices": planner.shared | key_of({"margin betas": [trial.beta for trial in vertices.values()]}),
            "annotate": rewards,
            "sweep": planner.shared | measurement,
            "evaluate": measurement,
        },
    )


def _joined(keys: Iterable[Key]) -> Key:
    return {name: digest for key in keys for name, digest in key.items()}


@dataclass(frozen=True)
class _Planner:
    """Names trials by everything that their trained weights depend on; `shared` is what all of them have in common."""

    config: SweepConfig
    inputs: Inputs
    shared: Key

    def vertex(self, objective: ObjectiveConfig) -> TrialSpec:
        """Plain DPO on the objective's own pairs, whatever loss the points of the sweep have."""
        index = self.config.objectives.index(objective)
        return self._named(
            TrialSpec(
                trial_id="",
                weights=vertex(len(self.config.objectives), index),
                primary=index,
                beta=self.config.vertex_beta(objective),
                seed=VERTEX_SEED,
                loss_type="sigmoid",
                sources=(index,),
                uses_rewards=False,
            ),
            rewards={},
        )

    def point(self, weights: WeightVector, beta: float, seed: int, rewards: Key) -> TrialSpec:
        """A Pareto point; `rewards` is the key of the annotation."""
        config, loss_type = self.config, self.config.training.loss_type
        sources = training_sources(config, weights, self.inputs.column_rewards)
        if loss_type != "regression":
            sources = (auto_primary(weights, sources),)
        # With all weight on one objective there is no margin, and a declared unit is known before any reward is.
        plain = max(weights) == 1.0 and config.objectives[sources[0]].normalize == "none"
        return self._named(
            TrialSpec(
                trial_id="",
                weights=weights,
                primary=None if loss_type == "regression" else sources[0],
                beta=beta,
                seed=seed,
                loss_type=loss_type,
                sources=sources,
                uses_rewards=not plain or loss_type in ("soft", "regression"),
            ),
            rewards=rewards,
        )

    def _named(self, trial: TrialSpec, *, rewards: Key) -> TrialSpec:
        names = self.config.objective_names
        depends_on = self.shared | (rewards if trial.uses_rewards else {})
        key = digest_of([depends_on, trial.model_dump(mode="json")])
        mixture = "-".join(f"{name[:12]}{weight:.3g}" for name, weight in zip(names, trial.weights, strict=True))
        # Folders are named by it, whose names may not be longer than 255 bytes; the key tells trials apart.
        mixture = mixture[:LONGEST_MIXTURE]
        return trial.model_copy(update={"trial_id": f"{mixture}_b{trial.beta:g}_s{trial.seed}_{key[:8]}"})


def _needed_vertices(
    config: SweepConfig, vertices: Mapping[str, TrialSpec], points: tuple[TrialSpec, ...]
) -> dict[str, TrialSpec]:
    """Those that an implicit reward comes from, and those that are ends of the front: they can be trained first."""
    ends = {point.trial_id for point in points}
    own = {o.name for o in config.objectives if (r := config.implicit_reward(o)) is not None and r.adapter is None}
    return {name: trial for name, trial in vertices.items() if name in own or trial.trial_id in ends}
