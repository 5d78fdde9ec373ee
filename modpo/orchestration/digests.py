"""What every stage's output depends on, part by part: the digest of all parts names the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modpo.artifacts import digest_of
from modpo.config.objectives import ObjectiveConfig
from modpo.config.points import ColumnRewards
from modpo.config.rewards import ColumnsReward, FunctionReward, ModelReward, TrainedReward
from modpo.config.spec import TrialSpec
from modpo.config.tree import SweepConfig

PLAN_VERSION = 5
LABEL_VERSION = 2
# Layout of what the stages reference and annotate write.
ANNOTATION_VERSION = 4

Key = dict[str, str]
"""Digests by the names that people are told when a part changes; that of the whole key names what has it."""

DERIVED = "vertex of "
"""How the names of parts begin that cannot change by themselves."""


@dataclass(frozen=True)
class Inputs:
    """Content that a config names but does not hold.

    Attributes:
        data: digest of all rows.
        model: digest of the start model's weights, or its hub id and revision.
        files: digest of everything else that is named: source of each `module:function`, adapters, reward models,
            DeepSpeed files, data of reward models.
        column_rewards: the rewards that stand in the rows of each objective's pairs.
        model_config: of the start model's files that are none of the others.
        tokenizer: of its tokenizer, without the chat template.
        chat_template: of its chat template.
    """

    data: str
    model: str
    files: Mapping[str, str]
    column_rewards: ColumnRewards = field(default_factory=dict)
    model_config: str = ""
    tokenizer: str = ""
    chat_template: str = ""


def key_of(parts: Mapping[str, Any]) -> Key:
    """Digests of JSON values."""
    return {name: digest_of(value) for name, value in parts.items()}


def changed_parts(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of the parts in which two keys differ, by what they derive from where that has changed too."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [name for name in changed if not name.startswith(DERIVED)] or changed


def prepared_key(config: SweepConfig, inputs: Inputs) -> Key:
    data = config.data.model_dump(mode="json", exclude={"num_proc", "template", "system", "max_length", "too_long"})
    rewards = [o.reward for o in config.objectives]
    return key_of(
        {
            "format of modpo's files": PLAN_VERSION,
            "data": inputs.data,
            "model config": inputs.model_config,
            "tokenizer": inputs.tokenizer,
            "chat template": inputs.chat_template,
            "template": [config.data.template, config.data.system],
            "truncation": [config.data.max_length, config.data.too_long],
            "other data settings": data,
            "seed": config.seed,
            "texts to fine-tune on": bool(config.sft),
            "columns with rewards": [
                r.model_dump(mode="json") if isinstance(r, ColumnsReward) else None for r in rewards
            ],
        }
    )


def start_model_key(config: SweepConfig, inputs: Inputs, prepared: Key) -> Key:
    """Of what every training starts from: the model itself, or the prepared texts too where it is fine-tuned first."""
    model = key_of(
        {
            "model": inputs.model,
            "model config": inputs.model_config,
            "dtype": config.model.dtype,
            "attention kernel": config.model.attn_implementation,
            "quantisation": config.model.load_in_4bit,
        }
    )
    if config.sft is None:
        return model
    return prepared | model | key_of({"fine-tuning": config.sft.model_dump(mode="json")})


def reference_key(pairs: Key, start_model: Key) -> Key:
    """What the reference log-probabilities depend on, of pairs that are prepared or labelled."""
    return pairs | start_model | key_of({"format of annotations": ANNOTATION_VERSION})


def trained_reward_key(config: SweepConfig, name: str, reward: TrainedReward, inputs: Inputs) -> Key:
    """What a reward model that the run trains depends on, beside the prepared data and the start model."""
    settings = reward.model_dump(mode="json", exclude={"data", "name_or_path", "batch_size"})
    return key_of(
        {
            f"training of the reward of {name}": settings,
            f"start of the reward of {name}": inputs.files.get(reward.name_or_path or "", ""),
            "number of workers": config.resources.num_workers,
            "intervals": [config.evaluation.level, config.evaluation.bootstrap_resamples],
        }
    )


def units_key(config: SweepConfig) -> Key:
    return key_of({f"unit of {o.name}": [o.unit, o.normalize] for o in config.objectives})


def scorer_key(objective: ObjectiveConfig, inputs: Inputs, reward_models: Mapping[str, str]) -> Key:
    """What an objective's own scorer depends on, as far as it has one."""
    return key_of({f"{what} of {objective.name}": value for what, value in _scorer(objective, inputs, reward_models)})


def _scorer(objective: ObjectiveConfig, inputs: Inputs, reward_models: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    reward = objective.reward
    if isinstance(reward, FunctionReward):
        yield "reward", [reward.function, objective.direction]
        yield "reward code", inputs.files.get(reward.function, "")
    elif isinstance(reward, ModelReward):
        settings = reward.model_dump(mode="json", exclude={"batch_size", "name_or_path", "revision"})
        yield "reward", [settings, objective.direction]
        yield "reward model", inputs.files.get(reward.name_or_path, "")
    elif isinstance(reward, TrainedReward):
        yield "reward", objective.direction
        yield "reward model", reward_models[objective.name]
    elif isinstance(reward, ColumnsReward):
        yield "reward", [reward.model_dump(mode="json"), objective.direction]


def labelled_key(config: SweepConfig) -> Key:
    """What labels depend on, beside prompts, start model, scorers and units."""
    assert config.label is not None
    label = config.label.model_dump(mode="json", exclude={"prompts"})
    return key_of({"format of labels": LABEL_VERSION, "labels": [label, config.labelled()]})


def training_key(config: SweepConfig, inputs: Inputs) -> Key:
    """Whatever else a trained point depends on, beside its reference."""
    own = config.training.deepspeed.config_file or ""
    return key_of(
        {
            "training": config.training.model_dump(mode="json", exclude={"beta": True, "deepspeed": {"config_file"}}),
            "DeepSpeed file": inputs.files.get(own, ""),
            "adapter's settings": config.model.lora.model_dump(mode="json") if config.model.lora else None,
            # The batch of one device is given, so their number changes the batch that is trained on.
            "number of workers": config.resources.num_workers,
        }
    )


def implicit_key(
    config: SweepConfig,
    objective: ObjectiveConfig,
    inputs: Inputs,
    *,
    vertices: Mapping[str, TrialSpec],
    training: Key,
) -> Key:
    """What an objective's implicit reward depends on, where it has one."""
    implicit, name = config.implicit_reward(objective), objective.name
    if implicit is None:
        return {}
    if implicit.adapter is not None:
        adapter = inputs.files.get(implicit.adapter, "")
        return key_of({f"margin beta of {name}": implicit.adapter_beta, f"adapter of {name}": adapter})
    # Of numbers in columns that are normalised, the vertex's own unit is fitted too.
    fits_unit = isinstance(objective.reward, ColumnsReward) and objective.normalize != "none"
    own = {
        f"margin beta of {name}": config.vertex_beta(objective),
        f"unit of {name}": [objective.unit, objective.normalize, fits_unit],
        f"{DERIVED}{name}": vertices[name].trial_id,
    }
    return training | key_of(own)


def measurement_key(config: SweepConfig, inputs: Inputs) -> Key:
    """What points are measured with, beside their rewards."""
    return key_of(
        {
            "evaluation": config.evaluation.model_dump(mode="json"),
            "enumerated answers": inputs.files.get(config.evaluation.enumerate or "", ""),
        }
    )
