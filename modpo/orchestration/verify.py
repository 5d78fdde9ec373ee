"""`modpo verify`: the sweeps whose optimum is known, run like any other, and what they trained compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from modpo.artifacts import verified
from modpo.config.tree import SweepConfig
from modpo.errors import InternalError, Problem, SetupError
from modpo.ledger import final_dir
from modpo.orchestration.fetching import fetch_inputs
from modpo.orchestration.live import Watcher
from modpo.orchestration.pipeline import opened, run_pipeline
from modpo.orchestration.preflight import check_storage
from modpo.telemetry import quiet_libraries
from modpo.verification.measure import KL_TOLERANCE, LOG_ERROR_TOLERANCE, Case, measure_points
from modpo.verification.sweeps import NUM_OBJECTIVES, verification_sweep
from modpo.verification.world import write_world


def verify(
    storage_path: Path, watch: Callable[[SweepConfig], Watcher], *, num_objectives: Sequence[int] = NUM_OBJECTIVES
) -> list[Case]:
    """Trains, or finds trained, every point of the verification sweeps and measures how far it is from its optimum.

    Args:
        watch: makes what is told of a sweep's stages.

    Raises:
        SetupError: the storage path cannot be written.
        TrialError: a point could not be trained.
        ConflictError: the storage path holds something else under the names of these sweeps.
    """
    # Unlike other commands, this one loads models in its own process.
    quiet_libraries()
    world = storage_path.absolute() / "verify-world"
    configs = [verification_sweep(k, world=world, storage_path=storage_path.absolute()) for k in num_objectives]
    if problems := {problem for config in configs for problem in check_storage(config)}:
        raise SetupError(problems)
    write_world(world)
    cases: list[Case] = []
    for config in configs:
        watcher = watch(config)
        run_pipeline(config, watcher)
        with opened(config, watcher) as (state, _):
            finals = [(trial, verified(final_dir(state.run_dir, trial))) for trial in state.plan.points]
            fetch_inputs(state.work("point", "verify"))
        cases += measure_points(state.config, state.inputs, finals)
    return cases


def check_cases(cases: Sequence[Case]) -> None:
    """Passes where every case does.

    Raises:
        InternalError: a trained policy is not the optimum, which is what modpo promises.
    """
    failed = [case for case in cases if not case.passed]
    if failed:
        raise InternalError(
            Problem(
                code="MS-604",
                what="a trained policy is not the optimum of its objectives",
                where=", ".join(f"{name}: {weight:g}" for name, weight in case.weights.items()),
                got=f"KL {case.kl:.2g}, largest error of a log-probability {case.max_log_error:.2g}",
                wanted=f"at most {KL_TOLERANCE:g} and {LOG_ERROR_TOLERANCE:g}",
                remedy="report it, with the versions that `modpo doctor` prints",
            )
            for case in failed
        )
