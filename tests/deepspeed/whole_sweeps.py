"""Every stage of a sweep in this process: the stages that users run, with workers that are plain function calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from modpo.annotate import annotate_shard
from modpo.config import SweepConfig
from modpo.config.spec import TrialSpec, Work
from modpo.data.prepare import write_prepared
from modpo.evaluation.evaluate import evaluate_point
from modpo.label import label_shard
from modpo.ledger import final_dir
from modpo.orchestration import stages
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from modpo.orchestration.session import Session
from modpo.orchestration.stages import RunState
from modpo.training.point import train_point
from modpo.training.reward_model import train_reward_model
from modpo.training.sft import train_sft
from tests.deepspeed.trainings import DEVICE


def count_e(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """A reward function that is as silly as it is easy to check."""
    return [float(response.count("e")) for response in responses]


@dataclass(frozen=True)
class InProcess:
    """Stands where a session with a cluster does, for pieces of work that one worker can do alone."""

    num_slots: int = 1

    def perform_all(self, works: Sequence[Work]) -> None:
        for work in works:
            _DO[work.kind](work)


def _shard(function: Callable[..., int], **extra: Any) -> Callable[[Work], object]:
    return lambda work: function(work, rank=0, world_size=1, device=DEVICE, **extra)


_DO: dict[str, Callable[[Work], object]] = {
    "sft": train_sft,
    "reward_model": train_reward_model,
    "label": _shard(label_shard, report=lambda progress: None),
    "reference": _shard(annotate_shard),
    "rewards": _shard(annotate_shard),
}


def open_run(config: SweepConfig, run_dir: Path) -> RunState:
    """Reads the data, plans, and runs every stage before the points."""
    data, inputs = load_inputs(config)
    plan = plan_sweep(config, inputs)
    state = RunState(config, run_dir, plan, cast(Session, InProcess()))
    write_prepared(Path(state.inputs.prepared), config, data, model_path=config.model.name_or_path)
    if config.sft:
        stages.run_sft(state)
    stages.run_reward_models(state)
    if plan.labelled:
        stages.run_labels(state)
    stages.run_annotation(state, "reference")
    for trial in plan.vertices.values():
        train_trial(state, trial, kind="vertex")
    stages.run_annotation(state, "rewards")
    return state


def train_trial(state: RunState, trial: TrialSpec, *, kind: Any = "point") -> Work:
    """Trains a point to its end; its weights are where the ledger would say."""
    work = state.work(kind, f"{kind}-{trial.trial_id}", trial)
    if not final_dir(state.run_dir, trial).exists():
        train_point(work)
    return work


def measure_trial(state: RunState, trial: TrialSpec) -> dict[str, Any]:
    return evaluate_point(state.work("point", trial.trial_id, trial), rank=0, world_size=1, device=DEVICE)
