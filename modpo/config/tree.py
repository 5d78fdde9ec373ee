"""The sweep file as one frozen typed tree. Names follow Hugging Face where Hugging Face has one.

Types and single-field bounds are stated here; checks that need two fields or the disk are in `checks`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from modpo.config.frozen import MODULE_FUNCTION, Frozen, PathText
from modpo.config.objectives import ObjectiveConfig
from modpo.config.optimisation import OptimisationConfig
from modpo.config.rewards import ImplicitReward
from modpo.config.sources import DataConfig, PromptData, TextData

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class LoraConfig(Frozen):
    """Low-rank adapters (PEFT)."""

    r: PositiveInt = 16
    """Rank."""
    lora_alpha: PositiveFloat = 32
    """Scale of the update is lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Module names, or PEFT's `all-linear`."""


class ModelConfig(Frozen):
    """The start model: the reference of every trial."""

    name_or_path: PathText
    """Hugging Face id or local folder; `demo:model` is the self-made demo model."""
    revision: str | None = None
    """Commit or tag on the hub."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the frozen weights and of the forward pass; trained weights keep a float32 master."""
    attn_implementation: str | None = None
    """Attention kernel of transformers; its own default if left out."""
    load_in_4bit: bool = False
    """Keep the frozen weights in 4 bits (QLoRA: NF4, double quantisation), multiplied in `dtype`; needs `lora`, GPUs
    and the extra `modpo[quantization]`."""
    lora: LoraConfig | None = LoraConfig()
    """Adapter settings; `null` trains all weights."""


LossType = Literal["sigmoid", "soft", "regression", "hinge", "ipo"]


class EarlyStoppingConfig(Frozen):
    """Stop a trial when its held-out J_w = E[w.r~] - beta KL no longer rises."""

    every_steps: PositiveInt = 100
    """Steps between two looks."""
    patience: PositiveInt = 3
    """Looks without a new best after which the trial stops."""
    num_prompts: PositiveInt = 32
    """Held-out prompts sampled at each look."""


class TrainingConfig(OptimisationConfig):
    """The MODPO trials."""

    beta: PositiveFloat = 0.1
    """Strength of staying near the reference, in declared reward units per nat."""
    loss_type: LossType = "sigmoid"
    """`sigmoid` fits the labels, `soft` the labels' probabilities under the primary's rewards, `regression` all rewards
    and no labels: these three share one optimum. `hinge` and `ipo` do not."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a label is wrong, for `sigmoid`; a bias of the optimum unless labels are that wrong."""
    early_stopping: EarlyStoppingConfig | None = None
    """Off if left out."""


class SftConfig(OptimisationConfig):
    """Supervised fine-tuning of the start model before everything else."""

    data: TextData | None = None
    """Prompt and response rows; the chosen responses of all pairs if left out."""
    lora: LoraConfig | None = None
    """Adapter settings, merged afterwards; all weights are trained if left out."""


class LabelConfig(Frozen):
    """Pairs from prompts alone: responses sampled from the start model, scored by the objectives' rewards, compared."""

    prompts: PromptData
    """Prompts to answer."""
    max_prompts: PositiveInt | None = None
    """At most so many of them, chosen with the run's seed; all if left out."""
    objectives: tuple[str, ...] | None = None
    """Objectives that get pairs; all that have a reward and no pairs of their own if left out."""
    responses_per_prompt: Annotated[int, Field(ge=2)] = 4
    """Responses sampled at temperature 1 for each prompt."""
    max_new_tokens: PositiveInt = 256
    """Longest response; cut ones are counted."""
    max_pairs_per_prompt: PositiveInt | None = None
    """At most so many pairs of one prompt, drawn at random with the run's seed; all if left out."""
    batch_size: PositiveInt = 32
    """Sequences generated at once."""


class WeightsConfig(Frozen):
    """Which Pareto points to train; give exactly one of the two."""

    lattice: PositiveInt | None = None
    """Divisions of the simplex: for two objectives, `6` gives 7 evenly spaced weight vectors with both ends."""
    list: tuple[dict[str, NonNegativeFloat], ...] | None = None
    """Weight vectors by objective name; a name left out has weight 0."""


class SweepSection(Frozen):
    """The points of the sweep: every combination of weights, betas and seeds."""

    weights: WeightsConfig = WeightsConfig(lattice=4)
    """Weight vectors."""
    primary: str = "auto"
    """Objective whose pairs label the loss: `auto` takes the largest weight that can, a name fixes it."""
    betas: tuple[PositiveFloat, ...] | None = None
    """Several strengths; the training's beta if left out."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Initial adapters and data order."""
    max_trials: PositiveInt = 500
    """Refuse larger sweeps: a guard against a slip of the keyboard."""


class ResourcesConfig(Frozen):
    """What one trial takes; how many run at once is computed from the cluster."""

    num_workers: PositiveInt = 1
    """Ray Train workers (data-parallel ranks) of one trial."""
    min_workers: PositiveInt | None = None
    """Fewest workers that a trial goes on with when nodes are lost, until there is room for all again; as many as
    num_workers if left out. The batch stays that of num_workers."""
    cpus_per_worker: PositiveFloat = 1.0
    """Processor cores of one worker."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs of one worker; 1 where the cluster has GPUs and 0 elsewhere, if left out. Trials of one worker may share a
    GPU: 0.25 puts four on it."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that workers may be put on, such as `ray.io/accelerator-type: H100`; any node if left out."""
    price_per_device_hour: NonNegativeFloat | None = None
    """What a worker's device (its GPU, or its cores) costs an hour, in any currency, for `modpo plan`."""
    max_concurrent: PositiveInt | None = None
    """Trials at once; as many as fit if left out."""
    points_together: Literal["auto"] | PositiveInt = "auto"
    """Points that one slot trains at once, as adapters on one model, where points outnumber slots: at most so many;
    `auto` where that is faster, 1 never."""
    max_failures: NonNegativeInt = 3
    """How often in a row a trial may lose its workers, with nothing new on storage in between, before it has failed;
    nodes that were taken back do not count."""
    hang_timeout: PositiveFloat = 60.0
    """Seconds without a step or batch after which workers are hung and are started anew, or ten times as long as those
    usually take; sixty times as much where a model is loaded, a kernel compiled or a checkpoint written."""


class EvaluationConfig(Frozen):
    """How a trained point is measured on held-out prompts."""

    num_prompts: PositiveInt = 128
    """At most so many held-out prompts."""
    samples_per_prompt: PositiveInt = 4
    """Responses sampled at temperature 1 for each prompt."""
    max_new_tokens: PositiveInt = 256
    """Longest response; longer ones are cut and counted as truncated."""
    batch_size: PositiveInt = 32
    """Sequences generated or scored at once."""
    bootstrap_resamples: PositiveInt = 1000
    """Resamples of the prompts behind every interval."""
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of the intervals."""
    enumerate: Annotated[str, Field(pattern=MODULE_FUNCTION)] | None = None
    """`module:function` giving all responses of a prompt, where they can be listed: adds the exact optimum."""


class TrackersConfig(Frozen):
    """Experiment trackers. TensorBoard files are always written beside Tune's results."""

    wandb: dict[str, Any] | None = None
    """Arguments of Ray's WandbLoggerCallback, such as `project`; needs the extra `modpo[wandb]`."""
    mlflow: dict[str, Any] | None = None
    """Arguments of Ray's MLflowLoggerCallback, such as `tracking_uri`; needs the extra `modpo[mlflow]`."""


class SweepConfig(Frozen):
    """A whole sweep file."""

    name: Annotated[str, Field(pattern=RUN_NAME)]
    """Name of the run and of its folder."""
    storage_path: PathText = "runs"
    """Folder that holds runs, on a cluster one that all nodes share; or `s3://...`, `gs://...`, `abfs://...`."""
    seed: NonNegativeInt = 0
    """Splits, sampling and bootstrap."""
    model: ModelConfig
    """The start model."""
    objectives: tuple[ObjectiveConfig, ...]
    """Two or more."""
    data: DataConfig = DataConfig()
    """Tokens and splits."""
    sft: SftConfig | None = None
    """Off if left out."""
    label: LabelConfig | None = None
    """Off if left out."""
    training: TrainingConfig = TrainingConfig()
    """MODPO training."""
    sweep: SweepSection = SweepSection()
    """Pareto points."""
    resources: ResourcesConfig = ResourcesConfig()
    """Workers."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out measurement."""
    trackers: TrackersConfig = TrackersConfig()
    """W&B and MLflow."""

    @property
    def objective_names(self) -> tuple[str, ...]:
        return tuple(objective.name for objective in self.objectives)

    def objective(self, name: str) -> ObjectiveConfig:
        return next(objective for objective in self.objectives if objective.name == name)

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest prompt with a response that any model of the run may see."""
        sampled = [self.evaluation.max_new_tokens, self.label.max_new_tokens if self.label else 0]
        return self.data.max_length + max(sampled)

    def vertex_beta(self, objective: ObjectiveConfig) -> float:
        """beta of the objective's DPO vertex, in declared units."""
        return self.training.beta if objective.beta is None else objective.beta

    def has_reward(self, objective: ObjectiveConfig) -> bool:
        """Whether any response can be scored: by a reward of its own, or by a vertex trained on own pairs."""
        return objective.reward is not None or objective.pairs is not None

    def implicit_reward(self, objective: ObjectiveConfig) -> ImplicitReward | None:
        """The implicit reward that is declared, or implied where there are pairs and nothing scores new responses."""
        if isinstance(objective.reward, ImplicitReward):
            return objective.reward
        return ImplicitReward(type="implicit") if objective.is_self_scored else None

    def labelled(self) -> tuple[str, ...]:
        """Objectives whose pairs the label stage makes."""
        if self.label is None:
            return ()
        named = self.label.objectives
        wanted = [o for o in self.objectives if o.name in named] if named is not None else self.objectives
        return tuple(o.name for o in wanted if o.pairs is None and o.scores_new_responses)

    def has_pairs(self, objective: ObjectiveConfig) -> bool:
        """Whether preference pairs of this objective are given or made."""
        return objective.pairs is not None or objective.name in self.labelled()
