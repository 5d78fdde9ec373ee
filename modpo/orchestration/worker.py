"""What a slot's workers do: lease a piece of work, perform it, report, and lease the next."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist

from modpo.annotate import annotate_shard
from modpo.artifacts import is_complete
from modpo.build_locks import remove_stale_locks
from modpo.config.optimisation import OptimisationConfig
from modpo.config.rewards import TrainedReward
from modpo.config.spec import Work
from modpo.disk_space import is_out_of_space, out_of_space
from modpo.errors import ConflictError, ModpoError, SetupError, TrialError, root_cause
from modpo.evaluation.early_stopping import can_stop_early, early_stopping_hook
from modpo.evaluation.evaluate import evaluate_point, evaluate_start
from modpo.label import label_shard
from modpo.lease import check, fenced
from modpo.ledger import evaluation_dir, final_dir, point_dir, read_point, update_point
from modpo.orchestration.cluster import NAMESPACE
from modpo.orchestration.desk import CLOSED
from modpo.orchestration.drains import DrainNotice
from modpo.orchestration.failures import Failure, failure_of, is_out_of_memory
from modpo.orchestration.fetching import fetch_inputs
from modpo.orchestration.group import train_group
from modpo.orchestration.pulse import Pulse
from modpo.orchestration.shortages import out_of_memory, peak_memory
from modpo.orchestration.stopwatch import Stopwatch
from modpo.telemetry import MetricsFile, mask_secrets, quiet_libraries
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from modpo.training.process_group import barrier, from_rank_zero, on_any_rank
from modpo.training.reward_model import train_reward_model
from modpo.training.sft import train_sft
from modpo.watch import LeaveError, must_leave, watched_by

logger = logging.getLogger(__name__)

GIVE_WAY_S = 5.0

Report = Callable[[dict[str, Any]], None]


def work_until_closed(config: dict[str, Any]) -> None:
    """The train loop of a slot (`train_loop_per_worker`): every rank runs it.

    Args:
        config: `desk`, the name of the desk's actor, `slot`, this slot's name, and `hang_timeout_s`.
    """
    quiet_libraries()
    mask_secrets()
    remove_stale_locks()
    context, slot = ray.train.get_context(), config["slot"]
    rank, desk = int(context.get_world_rank()), ray.get_actor(config["desk"], namespace=NAMESPACE)
    notice = DrainNotice(asks=context.get_local_rank() == 0)
    pulse = Pulse(desk, slot, config["hang_timeout_s"], notice.is_given)
    pulse.enrol(rank)
    with watched_by(pulse):
        try:
            _work(slot, desk, rank)
        except LeaveError as error:
            # The slot ends with its workers, and another takes up its work where there is room.
            if rank == 0:
                ray.get(desk.workers_lost.remote(slot, Failure("preemption", str(error))))


def _work(slot: str, desk: Any, rank: int) -> None:
    """Takes one piece of work after another.

    Raises:
        LeaveError: on all ranks, where the node of one of them is about to be taken away.
    """
    last: Work | None = None
    while True:
        if on_any_rank(must_leave()):
            raise LeaveError("a node is taken away; nothing was at work")
        leased = from_rank_zero(ray.get(desk.lease.remote(slot)) if rank == 0 else None)
        if leased == CLOSED:
            return
        if isinstance(leased, list):
            last = leased[0]
            with fenced(Path(last.run_dir), last.epoch):
                _perform_all(leased, slot, desk, rank)
        elif last is not None and last.epoch and rank == 0:
            _make_room(last, desk)


def _make_room(last: Work, desk: Any) -> None:
    """A slot without work does not stay where another driver has the run by now."""
    try:
        check(Path(last.run_dir), last.epoch)
    except ConflictError as error:
        ray.get(desk.abandon.remote(root_cause(error), error.exit_status))


def _perform_all(works: Sequence[Work], slot: str, desk: Any, rank: int) -> None:
    """What a slot was given together. Points that cannot be trained together go back, all but the first."""
    world_size = dist.get_world_size()

    def hooks_of(work: Work, on_progress: Callable[[Progress], None]) -> list[Hook]:
        return _hooks(work, _reporter(work, desk, rank), rank, on_progress)

    if len(works) > 1:
        try:
            together = train_group(works, hooks_of, rank=rank, world_size=world_size)
        except LeaveError:
            raise
        except Exception as error:
            if failure_of(error).is_retried:
                _give_way()
                raise
            logger.exception("%d points are trained one after another", len(works))
            together = False
            if world_size > 1:
                # The other ranks may wait in a collective: only a new group of workers is clean.
                ray.get(desk.part.remote(slot))
                raise
        if not together:
            if rank == 0:
                ray.get(desk.part.remote(slot))
            works = works[:1]
    for work in works:
        _perform(work, desk, rank)


def _perform(work: Work, desk: Any, rank: int) -> None:
    """One piece of work from start to its last report; an error is the piece's own and never the slot's."""
    try:
        fetch_inputs(work)
        result = _WORK[work.kind](work, _reporter(work, desk, rank), rank)
    except LeaveError:
        raise
    except ConflictError as error:
        # Another driver has the run: its slots need the room of ours, which may not hear of it themselves.
        logger.error("%s ends: %s", work.work_id, root_cause(error))
        ray.get(desk.abandon.remote(root_cause(error), error.exit_status))
        if dist.get_world_size() > 1:
            raise
    except Exception as error:  # whatever it is, it becomes this point's root cause
        failure = failure_of(_in_words(error, work, rank))
        logger.error("%s stopped, %s: %s\n%s", work.work_id, failure.kind, failure.cause, traceback.format_exc())
        if failure.is_retried:
            _give_way()
            raise
        _record_failure(work, failure)
        ray.get(desk.fail.remote(work.work_id, failure.cause, failure.exit_status))
        if dist.get_world_size() > 1:
            # The other ranks may wait in a collective: only a new group of workers is clean.
            raise
    else:
        # Finished means finished on every rank: each writes its own part of an annotation.
        barrier()
        if rank == 0:
            ray.get(desk.finish.remote(work.work_id, result))


def _in_words(error: Exception, work: Work, rank: int) -> Exception:
    """What ran short, as a user is told of it; any other error as it is."""
    if is_out_of_memory(error):
        return TrialError(out_of_memory(work, rank, peak_memory()))
    if is_out_of_space(error) and not isinstance(error, ModpoError):
        return SetupError(out_of_space(error, Path(work.run_dir)))
    return error


def _give_way() -> None:
    """Lets Ray see first who died of a cause of its own: the first error that it sees ends all workers of the slot."""
    if dist.get_world_size() > 1:
        time.sleep(GIVE_WAY_S)


def _record_failure(work: Work, failure: Failure) -> None:
    # A disk that is full may have no room for this either: the desk is told in any case.
    with suppress(OSError):
        if work.trial is not None:
            changes = {"status": "failed", "error": failure.cause, "exit_status": failure.exit_status}
            update_point(Path(work.run_dir), work.trial, **changes)


def _reporter(work: Work, desk: Any, rank: int) -> Report:
    """Reports to the desk, from rank 0."""

    def report(event: dict[str, Any]) -> None:
        if rank == 0:
            ray.get(desk.report.remote(work.work_id, event))

    return report


def _point(work: Work, report: Report, rank: int) -> dict[str, Any]:
    """Trains a point, then measures it with the same workers; the ledger has both before the desk hears of it.

    A vertex is measured later, as a point: the implicit rewards of a measurement need all vertices.
    """
    assert work.trial is not None
    run_dir, trial, context = Path(work.run_dir), work.trial, ray.train.get_context()
    devices, before = int(context.get_world_size()), read_point(run_dir, trial.trial_id)
    watch = Stopwatch(before, devices)

    def on_progress(progress: Progress) -> None:
        where = {"step": progress.step, "num_steps": progress.num_steps, "training": progress.totals}
        update_point(run_dir, trial, **where, **watch.spent())

    final = final_dir(run_dir, trial)
    trained = from_rank_zero(is_complete(final))
    if rank == 0:
        attempts = (before.attempts if before else 0) + (not trained)
        update_point(run_dir, trial, status="running", error="", exit_status=0, attempts=attempts)
    hooks = _hooks(work, report, rank, on_progress)
    if can_stop_early(work):
        looks = early_stopping_hook(work, rank=rank, world_size=devices, device=ray.train.torch.get_device())
        hooks.append(watch.counted_as_evaluation(looks))
    try:
        if not trained:
            train_point(work, hooks=hooks)
        if rank == 0:
            relative = str(final.relative_to(run_dir))
            update_point(run_dir, trial, status="trained", **watch.spent(), final=relative)
        return {} if work.kind == "vertex" else _measure(work, report, rank, watch)
    except Exception:
        # What fails has cost something too.
        if rank == 0:
            update_point(run_dir, trial, **watch.spent())
        raise


def _measure(work: Work, report: Report, rank: int, watch: Stopwatch) -> dict[str, Any]:
    """Evaluates a trained point and writes the ledger's last word on it."""
    assert work.trial is not None
    report({"phase": "evaluating"})
    run_dir, world_size = Path(work.run_dir), ray.train.get_context().get_world_size()
    with watch.evaluating():
        result = evaluate_point(work, rank=rank, world_size=world_size, device=ray.train.torch.get_device())
    spent = watch.spent()
    if rank == 0:
        folder = str(evaluation_dir(run_dir, work.trial, work.measurement).relative_to(run_dir))
        update_point(run_dir, work.trial, status="finished", **spent, evaluation=folder, result=result)
    return {"summary": result, **spent}


def _sft(work: Work, report: Report, rank: int) -> dict[str, Any]:
    return {"steps": train_sft(work, hooks=_hooks(work, report, rank))}


def _annotate(work: Work, report: Report, rank: int) -> dict[str, Any]:
    report({"phase": "scoring"})
    world_size = ray.train.get_context().get_world_size()
    return {"rows": annotate_shard(work, rank=rank, world_size=world_size, device=ray.train.torch.get_device())}


def _label(work: Work, report: Report, rank: int) -> dict[str, Any]:
    context = ray.train.get_context()
    return {
        "rows": label_shard(
            work,
            rank=rank,
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
            report=lambda progress: report({"phase": "sampling", **progress}),
        )
    }


def _start(work: Work, report: Report, rank: int) -> dict[str, Any]:
    report({"phase": "evaluating"})
    world_size = ray.train.get_context().get_world_size()
    evaluate_start(work, rank=rank, world_size=world_size, device=ray.train.torch.get_device())
    return {}


def _reward_model(work: Work, report: Report, rank: int) -> dict[str, Any]:
    return {"steps": train_reward_model(work, hooks=_hooks(work, report, rank))}


_WORK: dict[str, Callable[[Work, Report, int], dict[str, Any]]] = {
    "sft": _sft,
    "reward_model": _reward_model,
    "label": _label,
    "reference": _annotate,
    "rewards": _annotate,
    "vertex": _point,
    "start": _start,
    "point": _point,
}


def _hooks(work: Work, report: Report, rank: int, on_progress: Callable[[Progress], None] | None = None) -> list[Hook]:
    """Rows of metrics for the desk and for metrics.jsonl, every logging_steps."""
    settings = _settings(work)
    folder = Path(work.run_dir) / "work" / work.work_id
    if work.trial is not None:
        folder = point_dir(Path(work.run_dir), work.trial.trial_id)
    metrics = MetricsFile(folder / "metrics.jsonl")

    def log(progress: Progress) -> bool:
        if rank == 0:
            # The norm of a step that was skipped is infinite, which JSON has no word for.
            finite = {name: value for name, value in progress.metrics.items() if math.isfinite(value)}
            row = {"step": progress.step, "num_steps": progress.num_steps, **finite}
            metrics.append(row)
            report(row)
            if on_progress is not None:
                on_progress(progress)
        return False

    return [Hook(settings.logging_steps, log)]


def _settings(work: Work) -> OptimisationConfig:
    if work.kind == "sft":
        assert work.config.sft is not None
        return work.config.sft
    if work.kind == "reward_model":
        reward = work.config.objective(work.objective).reward
        assert isinstance(reward, TrainedReward)
        return reward
    return work.config.training
