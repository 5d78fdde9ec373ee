"""The training loop: batches in order, micro-batches, hooks. It knows no objective, no Ray and no DeepSpeed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from modpo.config.optimisation import OptimisationConfig
from modpo.core.workload import StepTotals, Workload, step_rates, step_totals
from modpo.training.checkpoint import CheckpointStore, TrainingState
from modpo.training.guard import Names, NumericGuard, RowLosses, StepNumbers
from modpo.training.schedule import SampleOrder, learning_rate, num_optimiser_steps
from modpo.training.step import MicroBatch, TrainEngine
from modpo.watch import LeaveError, Rhythm, kept, must_leave

Metrics = dict[str, float]


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step.

    Attributes:
        step: counted from 1.
        metrics: averaged over ranks.
        totals: of all steps until this one, each once, however often a lost worker had it repeated.
    """

    step: int
    num_steps: int
    metrics: Metrics
    totals: StepTotals
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
        peak_flops_per_second: what a device can do at best, where its utilisation is to be measured.
        names: what rows are called where one is at fault.
        about: what is trained, in words, for the same place.
    """

    settings: OptimisationConfig
    micro_batch: MicroBatch
    num_rows: int
    seed: int
    checkpoints: CheckpointStore
    hooks: Sequence[Hook] = ()
    costs: Sequence[int] | None = None
    peak_flops_per_second: float | None = None
    names: Names = lambda rows: [str(row) for row in rows]
    about: str = ""


def train(engine: TrainEngine, training: Training) -> int:
    """Trains from the newest valid checkpoint, or from the start, to the end. Returns the last step.

    Raises:
        TrialError: a loss or gradient is not finite, or too many steps in a row could not be taken.
        LeaveError: a machine is about to be taken away; the state behind the last step is saved.
    """
    settings = training.settings
    global_batch_size = engine.batch.size
    num_steps = num_optimiser_steps(settings, num_rows=training.num_rows, global_batch_size=global_batch_size)
    order = SampleOrder(training.num_rows, seed=training.seed)
    step, totals, stopped = resume(engine, training.checkpoints)
    engine.model.train()
    rhythm, guard = Rhythm(), NumericGuard(training.names, training.about)
    while step < num_steps and not stopped:
        rows = order.indices(step * global_batch_size, global_batch_size)
        rate = learning_rate(settings, step=step, num_steps=num_steps)
        started = time.perf_counter()
        metrics, workload, (skipped, leaving), row_losses = _optimiser_step(engine, training, rows, rate)
        seconds = time.perf_counter() - started
        done = step_totals(
            workload,
            seconds=seconds,
            num_devices=engine.world_size,
            peak_flops_per_second=training.peak_flops_per_second,
        )
        step, totals = step + 1, totals + replace(done, skipped_steps=int(skipped))
        metrics |= {"optim/lr": rate, "optim/skipped_steps": totals.skipped_steps}
        metrics |= {"perf/step_s": seconds, **step_rates(done, seconds=seconds)}
        guard.look(StepNumbers(step, rows, rate, metrics, skipped, row_losses))
        stopped = _run_hooks(training.hooks, Progress(step, num_steps, metrics, totals, engine.module))
        rhythm.beat()
        is_last = stopped or step == num_steps
        if is_last or leaving or step % settings.save_steps == 0:
            rhythm.rest()
            save(engine, training.checkpoints, step, totals, stopped=stopped)
            # Again step by step: a rank that hangs from here on is missed at the usual time.
            rhythm.beat()
        if leaving and not is_last:
            raise LeaveError(f"a node is taken away; left at step {step}, which is saved")
    rhythm.rest()
    return step


def resume(engine: TrainEngine, checkpoints: CheckpointStore) -> tuple[int, StepTotals, bool]:
    """Loads the newest valid checkpoint into the engine.

    Returns:
        Its step, 0 where there is none; the totals until then; and whether a hook ended the training with it: then it
        must not go on.
    """
    # Rank 0 decides: a shared file system may show the ranks different folders for a while.
    newest = [checkpoints.newest_valid() if engine.rank == 0 else None]
    if engine.world_size > 1:
        dist.broadcast_object_list(newest, src=0)
    if newest[0] is None:
        return 0, StepTotals(), False
    state = checkpoints.load(newest[0])
    engine.load(state.parameters, state.moments, num_steps=state.step - state.totals.skipped_steps)
    return state.step, state.totals, state.stopped


def save(engine: TrainEngine, checkpoints: CheckpointStore, step: int, totals: StepTotals, *, stopped: bool) -> None:
    checkpoints.save(TrainingState(step, engine.parameters(), engine.moments(), stopped, totals))
    kept()


def _optimiser_step(
    engine: TrainEngine, training: Training, rows: list[int], rate: float
) -> tuple[Metrics, Workload, tuple[bool, bool], RowLosses]:
    """All micro-batches of one global batch; the ranks share each, so world size does not change what is trained on.

    Returns:
        Metrics, workload, whether the step was skipped and whether to leave, and the losses of this rank's rows.
    """
    batch = engine.batch
    means: dict[str, Tensor] = {}
    row_losses: list[tuple[list[int], Tensor | None]] = []
    workload = Workload()
    for number in range(batch.micro_batches):
        together = batch.micro_batch(rows, number)
        share = batch.share(together, training.costs, engine.rank)
        weight = batch.weight(share)
        # Every rank goes through every micro-batch with the others: one that has no row of it takes any, for nothing.
        result = training.micro_batch(engine.model, share or together[:1])
        engine.micro_step(result.loss * weight, learning_rate=rate)
        for name, value in result.metrics.items():
            means[name] = means.get(name, torch.zeros_like(value)) + value * (weight / batch.micro_batches)
        if share:
            workload += result.workload
            row_losses.append((share, result.row_losses))
    flags = [engine.was_step_skipped(), must_leave(), engine.had_nan_gradient()]
    metrics, workload, (skipped, leaving, has_nan) = _over_ranks(means, workload, flags, engine.world_size)
    norm = math.nan if has_nan else engine.grad_norm()
    return {**metrics, "optim/grad_norm": norm}, workload, (skipped, leaving), row_losses


def _over_ranks(
    means: dict[str, Tensor], workload: Workload, flags: list[bool], world_size: int
) -> tuple[Metrics, Workload, list[bool]]:
    """Means of the metrics, the sum of the workloads, and which flags any rank has: one small all-reduce a step.

    Every rank sees the same numbers and so takes the same decisions.
    """
    values = torch.stack([value.double() for value in means.values()])
    if world_size > 1:
        others = torch.tensor([*flags, *workload.as_floats()], dtype=torch.float64, device=values.device)
        summed = torch.cat([values, others])
        dist.all_reduce(summed)
        values, others = summed[: len(means)] / world_size, summed[len(means) :]
        flags = [count > 0 for count in others[: len(flags)].tolist()]
        workload = Workload.from_floats(others[len(flags) :].tolist())
    return dict(zip(means, values.tolist(), strict=True)), workload, flags


def _run_hooks(hooks: Sequence[Hook], progress: Progress) -> bool:
    """Whether one of them ends the training; that step is then the last, which all of them are to see."""
    is_last = progress.step == progress.num_steps
    due = [is_last or progress.step % hook.every == 0 for hook in hooks]
    stopped = any([hook.run(progress) for hook, now in zip(hooks, due, strict=True) if now])
    if stopped:
        for hook, seen in zip(hooks, due, strict=True):
            if not seen:
                hook.run(progress)
    return stopped
