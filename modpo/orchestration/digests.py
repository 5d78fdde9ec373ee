"""What every stage's output depends on, as JSON values to be digested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modpo.artifacts import digest_of
from modpo.config.objectives import ObjectiveConfig
from modpo.config.points import ColumnRewards
from modpo.config.rewards import ColumnsReward, FunctionReward, ModelReward, TrainedReward
from modpo.config.spec import TrialSpec
from modpo.config.tree import SweepConfig

PLAN_VERSION = 4
LABEL_VERSION = 2
# Layout of what the stages reference and annotate write.
ANNOTATION_VERSION = 4


@dataclass(frozen=True)
class Inputs:
    """Content that a config names but does not hold.

    Attributes:
        data: digest of all rows.
        model: digest of the start model's files, or its hub id and revision.
        files: digest of everything else that is named: source of each `module:function`, adapters, reward models,
            DeepSpeed files, data of reward models.
        column_rewards: the rewards that stand in the rows of each objective's pairs.
    """

    data: str
    model: str
    files: Mapping[str, str]
    column_rewards: ColumnRewards = field(default_factory=dict)


def prepared_digest(config: SweepConfig, inputs: Inputs) -> str:
    columns = [
        o.reward.model_dump(mode="json") if isinstance(o.reward, ColumnsReward) else None for o in config.objectives
    ]
    data = config.data.model_dump(mode="json", exclude={"num_proc"})
    return digest_of([PLAN_VERSION, inputs.data, inputs.model, data, config.seed, bool(config.sft), columns])


def labelled_digest(config: SweepConfig, depends_on: list[Any]) -> str:
    assert config.label is not None
    label = config.label.model_dump(mode="json", exclude={"prompts"})
    return digest_of([LABEL_VERSION, depends_on, label, config.labelled(), config.seed])


def training_key(config: SweepConfig, inputs: Inputs) -> list[Any]:
    """Whatever else a trained point depends on, beside its reference."""
    return [
        config.training.model_dump(mode="json", exclude={"beta": True, "deepspeed": {"config_file"}}),
        inputs.files.get(config.training.deepspeed.config_file or "", ""),
        config.model.lora.model_dump(mode="json") if config.model.lora else None,
        # The batch of one device is given, so their number changes the batch that is trained on.
        config.resources.num_workers,
    ]


def scorer_key(
    objective: ObjectiveConfig, inputs: Inputs, reward_models: Mapping[str, str], *, template: str | None
) -> list[Any]:
    """What an objective's own scorer depends on, as far as it has one."""
    reward = objective.reward
    if isinstance(reward, FunctionReward):
        return [reward.function, objective.direction, inputs.files.get(reward.function, "")]
    if isinstance(reward, ModelReward):
        settings = reward.model_dump(mode="json", exclude={"batch_size", "name_or_path", "revision"})
        return [settings, objective.direction, inputs.files.get(reward.name_or_path, ""), template]
    if isinstance(reward, TrainedReward):
        return [reward_models[objective.name], objective.direction]
    if isinstance(reward, ColumnsReward):
        return [reward.model_dump(mode="json"), objective.direction]
    return []


def trained_reward_key(config: SweepConfig, reward: TrainedReward, inputs: Inputs) -> list[Any]:
    """What a reward model that the run trains depends on, beside the prepared data and the start model."""
    base = inputs.files.get(reward.name_or_path or "", "")
    settings = reward.model_dump(mode="json", exclude={"data", "name_or_path", "batch_size"})
    measured = [config.evaluation.level, config.evaluation.bootstrap_resamples]
    return [settings, base, config.data.template, config.model.dtype, config.resources.num_workers, measured]


def implicit_key(
    config: SweepConfig, objective: ObjectiveConfig, inputs: Inputs, vertices: Mapping[str, TrialSpec]
) -> list[Any]:
    """What an objective's implicit reward depends on, where it has one."""
    implicit = config.implicit_reward(objective)
    if implicit is None:
        return []
    if implicit.adapter is not None:
        return [implicit.adapter_beta, inputs.files.get(implicit.adapter, "")]
    # Of numbers in columns that are normalised, the vertex's own unit is fitted too.
    fits_unit = isinstance(objective.reward, ColumnsReward) and objective.normalize != "none"
    return [vertices[objective.name].trial_id, objective.unit, config.vertex_beta(objective), *[True] * fits_unit]
