"""All Pareto points as trials of one Tune experiment, every one of them at once where the cluster has room."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from modpo.config.spec import Work
from modpo.config.tree import TrackersConfig
from modpo.errors import InputError, Problem
from modpo.masking import names_secret
from modpo.orchestration.slots import SlotSettings
from modpo.orchestration.trial import run_trial
from modpo.storage import arrow_filesystem

# Only the loss of a trial's driver is worth another try, and finds its point where it was; errors of the point itself
# come back at once from the desk.
DRIVER_RETRIES = 1


def run_sweep(
    groups: Sequence[Sequence[Work]], settings: SlotSettings, trackers: TrackersConfig, *, name: str, storage_path: str
) -> tune.ResultGrid:
    """Runs every point and returns Tune's results, one row a point.

    Failed points are errors of their own trials; the others finish.

    Args:
        groups: points that one slot gets together.
    """
    driver = settings.resources.driver
    stored_path, filesystem = arrow_filesystem(Path(storage_path))
    by_trial = {work.trial.trial_id: group for group in groups for work in group if work.trial is not None}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, groups=by_trial, settings=settings), {resource: 0.01 for resource in driver}
    )
    # The first of every group, then the second: a trial that is begun brings its whole group to the desk, and those
    # that follow find their point where it is.
    order = [work for row in zip_longest(*groups) for work in row if work is not None]
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search([w.trial.model_dump(mode="json") for w in order if w.trial])},
        tune_config=tune.TuneConfig(
            # A trial that waits for a slot costs a process: no more of them than slots, and each serves many points.
            max_concurrent_trials=settings.resources.slots,
            reuse_actors=True,
            trial_dirname_creator=_trial_name,
            trial_name_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=stored_path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=DRIVER_RETRIES),
            callbacks=tracker_callbacks(trackers),
            verbose=0,
        ),
    )
    _keep_secrets_out_of_runtime_environments()
    return tuner.fit()


def _keep_secrets_out_of_runtime_environments() -> None:
    """Tune would send AWS's keys to its trials by a runtime_env, which Ray logs: nodes have their own."""
    sent = class_cache.ENV_VARS_TO_PROPAGATE
    sent -= {name for name in sent if names_secret(name)}


def tracker_callbacks(trackers: TrackersConfig) -> list[tune.Callback]:
    """Ray's own W&B and MLflow callbacks; TensorBoard, CSV and JSON files are Tune's default.

    Raises:
        InputError: a tracker's package is not installed.
    """
    callbacks: list[tune.Callback] = []
    for name, arguments in (("wandb", trackers.wandb), ("mlflow", trackers.mlflow)):
        if arguments is not None:
            callbacks.append(_tracker(name, arguments))
    return callbacks


def _tracker(name: str, arguments: dict[str, Any]) -> tune.Callback:
    try:
        if name == "wandb":
            from ray.air.integrations.wandb import WandbLoggerCallback as Tracker
        else:
            from ray.air.integrations.mlflow import MLflowLoggerCallback as Tracker
        callback: tune.Callback = Tracker(**arguments)
    except (ImportError, RuntimeError, TypeError) as error:
        raise InputError(
            Problem(
                code="MS-171",
                what=f"the tracker {name} cannot be used",
                where=f"trackers.{name}",
                got=" ".join(str(error).split())[:200],
                wanted=f"the package {name}, and arguments that Ray's callback takes",
                remedy=f"pip install 'modpo[{name}]', or remove trackers.{name}",
            )
        ) from error
    return callback


def _trial_name(trial: Any) -> str:
    """The point's own id: the same folder in every session."""
    trial_id: str = trial.config["trial"]["trial_id"]
    return trial_id
