"""Stops a training whose held-out J_w no longer rises. Loss and accuracy are never looked at: they mislead."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from modpo.artifacts import find_json, write_json
from modpo.config.spec import Work
from modpo.data.prepared import HeldOutPrompt, read_held_out
from modpo.evaluation.measure import Measured, open_measured, sampled_rows
from modpo.ledger import point_dir
from modpo.models import TrainedModel, plain_model
from modpo.training.loop import Hook, Progress
from modpo.training.process_group import from_rank_zero

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looks:
    """J_w at each step that was looked at, on disk, so that a resumed training decides as an undisturbed one."""

    path: Path

    def read(self, *, until: int) -> dict[int, float]:
        stored: dict[str, float] = find_json(self.path) or {}
        return {int(step): value for step, value in stored.items() if int(step) <= until}

    def add(self, step: int, value: float) -> None:
        write_json(self.path, {**{str(s): v for s, v in self.read(until=step).items()}, str(step): value})


def should_stop(looks: dict[int, float], *, patience: int) -> bool:
    """Whether the best look lies `patience` or more looks back."""
    values = [looks[step] for step in sorted(looks)]
    return bool(values) and len(values) - 1 - int(np.argmax(values)) >= patience


def can_stop_early(work: Work) -> bool:
    """Whether J_w can be measured while this point trains.

    The implicit reward of a vertex comes from that vertex itself, so a vertex whose own reward is implicit cannot look.
    """
    config, trial = work.config, work.trial
    if config.training.early_stopping is None or trial is None:
        return False
    return work.kind == "point" or all(config.implicit_reward(config.objectives[k]) is None for k in trial.sources)


def early_stopping_hook(work: Work, *, rank: int, world_size: int, device: torch.device) -> Hook:
    """A hook that samples one response for each of a few held-out prompts. All ranks call it alike.

    It keeps a frozen start model beside the policy for the reference and the implicit rewards.
    """
    settings = work.config.training.early_stopping
    assert settings is not None and work.trial is not None
    prompts = list(enumerate(read_held_out(Path(work.inputs.prepared), limit=settings.num_prompts)))[rank::world_size]
    weighted = [o for o, weight in zip(work.config.objectives, work.trial.weights, strict=True) if weight > 0]
    measured = open_measured(work, objectives=weighted, device=device)
    looks = Looks(point_dir(Path(work.run_dir), work.trial.trial_id) / "early_stopping.json")

    def look(progress: Progress) -> bool:
        value = _held_out_value(measured, progress.model, prompts, world_size)
        if rank == 0:
            looks.add(progress.step, value)
            logger.info("step %d: held-out J_w %.4f", progress.step, value)
        # Rank 0 decides, so that no rank stops alone.
        return from_rank_zero(should_stop(looks.read(until=progress.step), patience=settings.patience))

    return Hook(settings.every_steps, look)


def _held_out_value(
    measured: Measured, policy: torch.nn.Module, prompts: list[tuple[int, HeldOutPrompt]], world_size: int
) -> float:
    """J_w = E[w.r~] - beta KL over all ranks' prompts."""
    trial = measured.work.trial
    assert trial is not None
    in_training = TrainedModel(plain_model(policy), lambda: nullcontext(measured.base))
    policy.eval()
    rows = sampled_rows(measured, prompts, trained=lambda: nullcontext(in_training), samples_per_prompt=1)
    policy.train()
    weights = dict(zip(measured.work.config.objective_names, trial.weights, strict=True))
    values = [sum(weights[name] * row[name] for name in measured.scorers) - trial.beta * row["kl"] for row in rows]
    total = torch.tensor([sum(values), len(values)], dtype=torch.float64, device=measured.base.device)
    if world_size > 1:
        dist.all_reduce(total)
    return float(total[0] / total[1])
