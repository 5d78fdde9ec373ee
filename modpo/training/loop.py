"""The training loop: batches in order, micro-batches, hooks. It knows no objective, no Ray and no DeepSpeed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from modpo.config.optimisation import OptimisationConfig
from modpo.core.packing import balanced_shares
from modpo.errors import Problem, TrialError
from modpo.training.checkpoint import Checkpoints, TrainingState
from modpo.training.schedule import SampleOrder, learning_rate, num_optimiser_steps
from modpo.training.step import MicroBatch, TrainEngine

Metrics = dict[str, float]


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step: the step counted from 1, metrics averaged over ranks, and the model."""

    step: int
    num_steps: int
    metrics: Metrics
    model: torch.nn.Module


@dataclass(frozen=True)
class Hook:
    """Periodic work after every `every` steps and after the last; `run` returns True to end the training early.

    All ranks call it, and must get the same answer.
    """

    every: int
    run: Callable[[Progress], bool]


@dataclass(frozen=True)
class Training:
    """Everything a loop needs beside its engine.

    Attributes:
        costs: tokens of each row, so that ranks get equal shares of them; equal numbers of rows, if left out.
    """

    settings: OptimisationConfig
    micro_batch: MicroBatch
    num_rows: int
    seed: int
    checkpoints: Checkpoints
    hooks: Sequence[Hook] = ()
    costs: Sequence[int] | None = None


def train(engine: TrainEngine, training: Training) -> int:
    """Trains from the newest valid checkpoint, or from the start, to the end. Returns the last step.

    Raises:
        TrialError: a loss or gradient is not finite.
    """
    settings = training.settings
    per_rank = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    global_batch_size = per_rank * engine.world_size
    num_steps = num_optimiser_steps(settings, num_rows=training.num_rows, global_batch_size=global_batch_size)
    order = SampleOrder(training.num_rows, seed=training.seed)
    step, stopped = resume(engine, training.checkpoints)
    engine.model.train()
    while step < num_steps and not stopped:
        rows = order.indices(step * global_batch_size, global_batch_size)
        rate = learning_rate(settings, step=step, num_steps=num_steps)
        started = time.perf_counter()
        metrics = _optimiser_step(engine, training, rows, rate)
        step += 1
        metrics |= {"optim/lr": rate, "perf/step_s": time.perf_counter() - started}
        _refuse_non_finite(metrics, step, rows)
        stopped = _run_hooks(training.hooks, Progress(step, num_steps, metrics, engine.module))
        if stopped or step == num_steps or step % settings.save_steps == 0:
            save(engine, training.checkpoints, step, stopped=stopped)
    return step


def resume(engine: TrainEngine, checkpoints: Checkpoints) -> tuple[int, bool]:
    """Loads the newest valid checkpoint into the engine.

    Returns:
        Its step, 0 where there is none, and whether a hook ended the training with it: then it must not go on.
    """
    # Rank 0 decides: a shared file system may show the ranks different folders for a while.
    newest = [checkpoints.newest_valid() if engine.rank == 0 else None]
    if engine.world_size > 1:
        dist.broadcast_object_list(newest, src=0)
    if newest[0] is None:
        return 0, False
    state = checkpoints.load(newest[0])
    engine.load(state.parameters, state.moments, num_steps=state.step)
    return state.step, state.stopped


def save(engine: TrainEngine, checkpoints: Checkpoints, step: int, *, stopped: bool) -> None:
    checkpoints.save(TrainingState(step, engine.parameters(), engine.moments(), stopped))


def _optimiser_step(engine: TrainEngine, training: Training, rows: list[int], rate: float) -> Metrics:
    """All micro-batches of one global batch; the ranks share each, so world size does not change what is trained on."""
    size, accumulation = training.settings.per_device_train_batch_size, training.settings.gradient_accumulation_steps
    totals: dict[str, Tensor] = {}
    together = size * engine.world_size
    for micro in range(accumulation):
        share = _share(rows[micro * together : (micro + 1) * together], training.costs, engine)
        result = training.micro_batch(engine.model, share)
        # A mean over ranks of means over unequal shares would weigh rows unequally.
        weight = len(share) / size
        engine.micro_step(result.loss * weight, learning_rate=rate)
        for name, value in result.metrics.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value * (weight / accumulation)
    return {**_mean_over_ranks(totals, engine.world_size), "optim/grad_norm": engine.grad_norm()}


def _share(rows: list[int], costs: Sequence[int] | None, engine: TrainEngine) -> list[int]:
    """This rank's rows of a micro-batch: as many tokens as the others have, where those are known."""
    if engine.world_size == 1:
        return rows
    size = len(rows) // engine.world_size
    if costs is None:
        return rows[engine.rank * size : (engine.rank + 1) * size]
    shares = balanced_shares([costs[row] for row in rows], engine.world_size)
    return [rows[place] for place in sorted(shares[engine.rank])]


def _mean_over_ranks(totals: dict[str, Tensor], world_size: int) -> Metrics:
    """One small all-reduce a step; every rank sees the same numbers and so takes the same decisions."""
    values = torch.stack([value.double() for value in totals.values()])
    if world_size > 1:
        dist.all_reduce(values)
        values /= world_size
    return dict(zip(totals, values.tolist(), strict=True))


def _refuse_non_finite(metrics: Metrics, step: int, rows: list[int]) -> None:
    bad = [name for name in ("loss", "optim/grad_norm") if not math.isfinite(metrics[name])]
    if bad:
        raise TrialError(
            Problem(
                code="MS-501",
                what=f"{' and '.join(bad)} not finite at step {step}",
                where=f"rows {rows[:8]} of the training split",
                wanted="finite numbers",
                remedy="lower training.learning_rate, or raise the weight of the primary objective",
            )
        )


def _run_hooks(hooks: Sequence[Hook], progress: Progress) -> bool:
    stops = [
        hook.run(progress) for hook in hooks if progress.step % hook.every == 0 or progress.step == progress.num_steps
    ]
    return any(stops)
