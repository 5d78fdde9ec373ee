"""A whole run, from prepare to report, stage by stage. The same call resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modpo.artifacts import digest_of, find_json, is_complete, read_json, stage_path, verified, write_json
from modpo.config.load import parse_config
from modpo.config.tree import SweepConfig
from modpo.data.loading import LoadedData
from modpo.disk_space import room_for
from modpo.errors import ConflictError, InputError, Problem, SetupError, TrialError
from modpo.guards import ask_guards
from modpo.lease import held
from modpo.ledger import final_dir, read_point
from modpo.orchestration.differences import changed_settings, why_again
from modpo.orchestration.inputs import load_inputs, resolve_paths
from modpo.orchestration.live import Watcher
from modpo.orchestration.plan import FREE_SECTIONS, SweepPlan, identity_digest, plan_sweep
from modpo.orchestration.recovery import set_aside_damaged
from modpo.orchestration.session import Session, work_error
from modpo.orchestration.stages import (
    RunState,
    annotation_is_done,
    labels_are_done,
    missing_points,
    missing_reward_models,
    missing_vertices,
    run_annotation,
    run_labels,
    run_points,
    run_reward_models,
    run_sft,
    run_sweep_stage,
    sft_is_done,
    start_path,
    sweep_is_done,
)
from modpo.orchestration.versions import earlier_versions, installed_versions, warn_of_versions
from modpo.storage import address, working_copy

Timings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One stage: whether it has nothing to do, how to do it, and what its result gives reason to doubt."""

    name: str
    is_done: Callable[[], bool]
    run: Callable[[], object]
    warnings: Callable[[], list[Problem]] = list


def run_pipeline(config: SweepConfig, watcher: Watcher, read: LoadedData | None = None) -> dict[str, Any]:
    """Runs what is missing of a checked sweep and returns the report's summary.

    Args:
        read: the sweep's data, where a preflight has read it already.

    Raises:
        InputError: of the data; before anything is started.
        ConflictError: the run's folder holds another config, or another driver works on it, or took it over meanwhile.
        SetupError: the cluster lacks what the config asks for.
        TrialError: trials failed; all others are finished and the report is written.
    """
    with opened(config, watcher, read) as (state, data):
        for stage in _stages(state, data):
            run_stage(stage, state, watcher)
    return _report(state, watcher)


def evaluate_points(config: SweepConfig, watcher: Watcher) -> dict[str, Any]:
    """Measures every trained point that has no evaluation under the config's settings; trains nothing.

    Raises:
        TrialError: a measurement failed.
    """
    with opened(config, watcher) as (state, _):
        trained = [trial for trial in missing_points(state) if is_complete(final_dir(state.run_dir, trial))]
        done = not trained and is_complete(start_path(state))
        run_stage(Stage("evaluate", lambda: done, lambda: run_sweep_stage(state, trained)), state, watcher)
    return _report(state, watcher)


def label_prompts(config: SweepConfig, watcher: Watcher, read: LoadedData | None = None) -> Path:
    """Runs a sweep as far as its labels and returns the folder of the pairs; the sweep itself goes on from there."""
    with opened(config, watcher, read) as (state, data):
        stages = _stages(state, data)
        until = [stage.name for stage in stages].index("label") + 1
        for stage in stages[:until]:
            run_stage(stage, state, watcher)
        return Path(state.inputs.pairs)


@contextmanager
def opened(
    config: SweepConfig, watcher: Watcher, read: LoadedData | None = None
) -> Iterator[tuple[RunState, LoadedData]]:
    """A run's folder held, its data read, its plan made, its manifest written; a cluster is started on first use."""
    run_dir = run_path(config)
    with room_for(run_dir), hold(run_dir, config, watcher) as epoch:
        watcher.warn(set_aside_damaged(run_dir))
        resolved = resolve_paths(config, run_dir)
        data, inputs = load_inputs(resolved, read)
        plan = plan_sweep(resolved, inputs)
        watcher.warn(_write_manifest(run_dir, config, plan))
        with Session(resolved, run_dir, num_trials=len(plan.trials)) as session, watcher.watching(session.snapshot):
            yield RunState(resolved, run_dir, plan, session, epoch), data


def run_path(config: SweepConfig) -> Path:
    return working_copy(config.storage_path) / config.name


@contextmanager
def hold(run_dir: Path, config: SweepConfig, watcher: Watcher) -> Iterator[int]:
    """Keeps other drivers and other configs out of a run's folder; yields the epoch of the lease.

    Raises:
        ConflictError: another driver holds it, or takes it over meanwhile, or it belongs to another config.
    """
    # Whoever would be refused takes no run from anybody.
    refuse_other_config(run_dir, config)
    with held(run_dir, waiting=watcher.waiting, lost=watcher.taken_over) as epoch:
        refuse_other_config(run_dir, config)
        yield epoch


def refuse_other_config(run_dir: Path, config: SweepConfig) -> None:
    try:
        stored = find_json(run_dir / "run.json")
    except ValueError:
        # It is set aside, and written again.
        return
    if stored is None:
        return
    # An earlier version's config has not all of today's keys: those that it lacks were as they are by default.
    same = {stored["config_digest"], _digest_today(stored["config"])}
    if identity_digest(config) in same:
        return
    now = config.model_dump(mode="json")
    bound = {key: value for key, value in now.items() if key not in FREE_SECTIONS}
    before = {key: stored["config"].get(key) for key in bound}
    raise ConflictError(
        Problem(
            code="MS-312",
            what="the run's folder belongs to another config",
            where=address(run_dir),
            got=changed_settings(before, bound),
            wanted=f"changes in {', '.join(FREE_SECTIONS)} only",
            remedy="give the sweep another name, or undo the change",
        )
    )


def _digest_today(stored: dict[str, Any]) -> str | None:
    """Identity of a stored config as this version reads it, None where it cannot."""
    try:
        return identity_digest(parse_config(stored))
    except InputError:
        return None


def _stages(state: RunState, data: LoadedData) -> list[Stage]:
    config, inputs = state.config, state.inputs
    prepared = Path(inputs.prepared)

    def prepare() -> None:
        # transformers takes seconds to import; slots start meanwhile.
        from modpo.data.prepare import write_prepared

        _ = state.session.settings
        write_prepared(prepared, config, data, model_path=config.model.name_or_path)

    return [
        Stage("prepare", lambda: is_complete(prepared), prepare),
        Stage("sft", lambda: sft_is_done(state), lambda: run_sft(state)),
        *_optional_stages(state),
        Stage("reference", lambda: annotation_is_done(state, "reference"), lambda: run_annotation(state, "reference")),
        Stage("vertices", lambda: not missing_vertices(state), lambda: _run_vertices(state)),
        Stage(
            "annotate",
            lambda: annotation_is_done(state, "rewards"),
            lambda: run_annotation(state, "rewards"),
            lambda: read_warnings(verified(Path(state.inputs.rewards))),
        ),
        Stage("sweep", lambda: sweep_is_done(state), lambda: run_sweep_stage(state, state.plan.points)),
    ]


def _optional_stages(state: RunState) -> Iterator[Stage]:
    """What most sweeps have no use for."""
    if state.plan.reward_models:
        yield Stage("reward_models", lambda: not missing_reward_models(state), lambda: run_reward_models(state))
    if state.plan.labelled:
        yield Stage("label", lambda: labels_are_done(state), lambda: run_labels(state))


def _run_vertices(state: RunState) -> None:
    """Trains all vertices; goes on without one only where no margin reward comes from it."""
    run_points(state, "vertex", list(state.plan.vertices.values()))
    missing = {trial.trial_id for trial in missing_vertices(state)}
    needed = [
        state.plan.vertices[objective.name].trial_id
        for objective in state.config.objectives
        if (implicit := state.config.implicit_reward(objective)) is not None and implicit.adapter is None
    ]
    failed = [trial_id for trial_id in needed if trial_id in missing]
    if failed:
        raise _failures(state.run_dir, failed)


def run_stage(stage: Stage, state: RunState, watcher: Watcher) -> None:
    """Does a stage where that is needed, and adds what it takes to stages.json whether or not it comes to its end."""
    ask_guards(state.run_dir)
    started, device_seconds = time.monotonic(), state.session.device_seconds()
    skipped, key = stage.is_done(), state.plan.keys.get(stage.name, {})
    earlier = read_stages(state.run_dir).get(stage.name, {}).get("key", {})
    reason = "" if skipped else why_again(earlier, key)
    watcher.stage(stage.name, skipped=skipped, reason=reason)
    made_from = earlier or key
    try:
        if not skipped:
            stage.run()
        made_from = key
    finally:
        seconds = 0.0 if skipped else time.monotonic() - started
        # A desk that is gone has forgotten what it knew: never less than nothing.
        spent = max(0.0, state.session.device_seconds() - device_seconds)
        _add_to_stages(
            state.run_dir, stage.name, seconds, spent, {"skipped": skipped, "reason": reason, "key": made_from}
        )
    watcher.warn(stage.warnings())


def _add_to_stages(
    run_dir: Path, name: str, seconds: float, device_seconds: float, last_call: Mapping[str, Any]
) -> None:
    """Seconds over all calls, and what there is to say of the last one."""
    stages = read_stages(run_dir)
    earlier = stages.get(name, {})
    stages[name] = {
        "seconds": round(earlier.get("seconds", 0.0) + seconds, 3),
        "device_seconds": round(earlier.get("device_seconds", 0.0) + device_seconds, 3),
        **last_call,
    }
    write_json(run_dir / "stages.json", stages)


def _report(state: RunState, watcher: Watcher) -> dict[str, Any]:
    """Writes the report over whatever finished, then raises for what failed."""
    run_dir = state.run_dir
    digest = report_digest(run_dir)

    def report() -> None:
        # plotly and pandas are loaded last, and only here.
        from modpo.analysis.report import write_report

        write_report(run_dir)
        write_json(run_dir / "report" / "digest.json", {"digest": digest})

    def is_done() -> bool:
        stored, summary = (find_json(run_dir / "report" / name) for name in ("digest.json", "summary.json"))
        return stored is not None and summary is not None and stored["digest"] == digest

    run_stage(Stage("report", is_done, report), state, watcher)
    taken = {
        name: {figure: stage[figure] for figure in ("seconds", "device_seconds", "skipped")}
        for name, stage in read_stages(run_dir).items()
    }
    summary: dict[str, Any] = read_json(run_dir / "report" / "summary.json") | {"stages": taken}
    write_json(run_dir / "report" / "summary.json", summary)
    missing = [trial.trial_id for trial in missing_points(state)]
    if missing:
        raise _failures(run_dir, missing)
    return summary


def report_digest(run_dir: Path) -> str:
    """Changes with the sweep's points, with every word that the ledger has on them, and with what stages have cost."""
    manifest = read_json(run_dir / "run.json")
    records = [read_point(run_dir, trial_id) for trial_id in manifest["trials"]]
    ledger = [r.model_dump(mode="json", exclude={"updated_at"}) if r else None for r in records]
    costs = {name: stage.get("device_seconds", 0.0) for name, stage in read_stages(run_dir).items() if name != "report"}
    return digest_of([manifest, ledger, costs])


def read_warnings(rewards: Path) -> list[Problem]:
    """What the annotation gives reason to doubt."""
    return [Problem(**warning) for warning in read_json(rewards / "meaning.json")["warnings"]]


def read_stages(run_dir: Path) -> Timings:
    stages: Timings = find_json(run_dir / "stages.json") or {}
    return stages


def _failures(run_dir: Path, trial_ids: list[str]) -> TrialError | SetupError:
    records = {trial_id: read_point(run_dir, trial_id) for trial_id in trial_ids}
    problems = [
        Problem(
            code="MS-503",
            what=f"trial {trial_id} failed",
            where=address(run_dir / "points" / trial_id),
            got=record.error if record and record.error else "it never started",
            remedy="mend the cause and run the same command again: everything finished is kept",
        )
        for trial_id, record in records.items()
    ]
    statuses = [record.exit_status if record else TrialError.exit_status for record in records.values()]
    return work_error(problems, statuses)


def _write_manifest(run_dir: Path, config: SweepConfig, plan: SweepPlan) -> list[Problem]:
    """The run's identity. Written again by every call, with the points of the present sweep.

    Returns:
        What the call before gives reason to doubt.
    """
    path = run_dir / "run.json"
    stored = find_json(path) or {}
    created, earlier = stored.get("created_at", datetime.now(UTC).isoformat()), earlier_versions(stored)
    write_json(
        path,
        {
            "config": config.model_dump(mode="json"),
            "config_digest": identity_digest(config),
            "created_at": created,
            "trials": [trial.trial_id for trial in plan.points],
            "vertices": [trial.trial_id for trial in plan.vertices.values()],
            "artifacts": {
                stage: str(stage_path(run_dir, stage, digest).relative_to(run_dir))
                for stage, digest in (("rewards", plan.rewards), ("start_evaluation", plan.measurement))
            },
            "versions": installed_versions(),
            "earlier_versions": earlier,
        },
    )
    return list(warn_of_versions(earlier))
