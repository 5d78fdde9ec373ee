"""Which scorer an objective's reward asks for, and the implicit reward of a DPO model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import FunctionReward, ModelReward, TrainedReward
from modpo.config.spec import StageInputs
from modpo.config.tree import ModelConfig, SweepConfig
from modpo.errors import InputError, Problem
from modpo.models import trained_model
from modpo.rewards.base import Completion, RewardScorer, finite
from modpo.rewards.classifier import ClassifierScorer, ClassifierSource
from modpo.rewards.function import FunctionScorer
from modpo.scoring import ResponseModel, completion_logps


@dataclass(frozen=True)
class ImplicitScorer:
    """beta_j [log pi_j(y|x) - log pi_ref(y|x)], in raw units: beta_j is the one that pi_j was trained with."""

    objective: str
    base: PreTrainedModel
    config: ModelConfig
    folder: Path
    raw_beta: float
    batch_size: int
    longest: int

    def score(self, completions: Sequence[Completion], *, reference_logps: NDArray[np.float64]) -> NDArray[np.float64]:
        with trained_model(self.base, self.config, self.folder) as trained:
            logps = completion_logps(
                ResponseModel(trained.policy, longest=self.longest),
                [c.prompt_ids for c in completions],
                [c.response_ids for c in completions],
                batch_size=self.batch_size,
            )
        return finite(self.objective, self.raw_beta * (logps - reference_logps), len(completions))


def build_scorer(
    config: SweepConfig,
    objective: ObjectiveConfig,
    inputs: StageInputs,
    *,
    base: PreTrainedModel,
) -> RewardScorer:
    """The scorer that the config declares, or the implicit reward of the objective's own vertex.

    The implicit one is also that of rewards that stand in the data (`columns`): new responses have no such number.
    """
    reward = objective.reward
    if isinstance(reward, FunctionReward):
        return FunctionScorer(objective.name, import_function(reward.function), reward, objective.sign)
    if isinstance(reward, ModelReward):
        source = ClassifierSource(reward.name_or_path, reward.revision, reward.dtype)
        return ClassifierScorer(objective.name, source, reward, objective.sign, base, plain_template(config))
    if isinstance(reward, TrainedReward):
        source = ClassifierSource(inputs.reward_models[objective.name])
        return ClassifierScorer(objective.name, source, reward, trained_sign(objective), base, plain_template(config))
    implicit = config.implicit_reward(objective)
    if implicit is not None and implicit.adapter is not None and implicit.adapter_beta is not None:
        folder, raw_beta = Path(implicit.adapter), implicit.adapter_beta
    else:
        # A vertex is trained at w = e_j, where z = s_j beta_j Delta log: its raw reward has that scale.
        folder, raw_beta = Path(inputs.vertices[objective.name]), objective.unit * config.vertex_beta(objective)
    return ImplicitScorer(
        objective.name, base, config.model, folder, raw_beta, config.evaluation.batch_size, config.longest_sequence
    )


def trained_sign(objective: ObjectiveConfig) -> float:
    """What the output of a reward model that the run trained is multiplied by, so that higher is better.

    A regression learns the numbers of its data as they are, and the objective's direction says which are better. Pairs
    say that themselves: what Bradley-Terry learns from them is higher-is-better whatever the direction.
    """
    assert isinstance(objective.reward, TrainedReward)
    return objective.sign if objective.reward.loss == "regression" else 1.0


def plain_template(config: SweepConfig) -> str:
    """What a classifier without any template reads: the prompt as the policy reads it, and the response."""
    return (config.data.template or "{prompt}") + "{response}"


def import_function(dotted: str) -> Callable[..., Any]:
    """Imports `module:function`; only workers that score call this.

    Raises:
        InputError: the module fails to import or lacks the function.
    """
    module, _, name = dotted.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            Problem(
                code="MS-232",
                what="a reward function cannot be imported on a worker",
                where=dotted,
                got=str(error),
                wanted="an importable module:function",
                remedy="install the package on every node, or ship it with the job's working_dir",
            )
        ) from error
    imported: Callable[..., Any] = function
    return imported
