"""The function that Tune runs for each Pareto point: sees that a slot works on it, and passes its reports on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from modpo.config.spec import TrialSpec, Work
from modpo.lease import fenced
from modpo.ledger import is_finished, is_trained, read_point
from modpo.orchestration.slots import SlotSettings, perform, record_failure
from modpo.storage import address


class PointFailedError(RuntimeError):
    """A point's one-line root cause, as Tune shows it."""


def run_trial(config: dict[str, Any], *, groups: Mapping[str, Sequence[Work]], settings: SlotSettings) -> None:
    """One Tune trial.

    Launches a Ray Train run for its point where the cluster has room, and otherwise waits for a worker group that is
    through with another. The point's state is in the ledger: a trial that Tune starts again finds it where it was,
    and a point that is finished is only reported.

    Args:
        config: `trial`, a TrialSpec as JSON.
        groups: by trial id, the work of the trial and of those that one slot trains together with it.
    """
    trial = TrialSpec.model_validate(config["trial"])
    together = groups[trial.trial_id]
    work = next(work for work in together if work.trial == trial)
    with fenced(Path(work.run_dir), work.epoch):
        _run(work, together, settings)


def _run(work: Work, together: Sequence[Work], settings: SlotSettings) -> None:
    described = describe(work)
    if _is_done(work):
        tune.report({**described, **point_row(work)})
        return
    for event in perform(work, settings, together):
        if event["kind"] == "failed":
            record_failure(work, event["error"], event["exit_status"])
            raise PointFailedError(event["error"])
        if event["kind"] == "finished":
            tune.report({**described, **point_row(work)})
        elif "step" in event:
            tune.report({**described, **event, "status": "training"})


def _is_done(work: Work) -> bool:
    assert work.trial is not None
    run_dir = Path(work.run_dir)
    if work.kind == "vertex":
        return is_trained(run_dir, work.trial)
    return is_finished(run_dir, work.trial, work.measurement)


def describe(work: Work) -> dict[str, Any]:
    """What identifies a point in Tune's results."""
    trial = work.trial
    assert trial is not None
    weights = zip(work.config.objective_names, trial.weights, strict=True)
    return {
        "point": trial.trial_id,
        **{f"weight/{name}": weight for name, weight in weights},
        "primary": trial.primary_name(work.config.objective_names) or "none",
        "beta": trial.beta,
        "seed": trial.seed,
    }


def point_row(work: Work) -> dict[str, Any]:
    """A point's ledger entry as one flat row: values with their bounds, KL, J_w, cost and the trained weights."""
    assert work.trial is not None
    record = read_point(Path(work.run_dir), work.trial.trial_id)
    assert record is not None, "a point that was worked on is in the ledger"
    row: dict[str, Any] = {
        "status": record.status,
        "step": record.step,
        "device_seconds": record.device_seconds,
        # With a prefix that no objective's name has.
        **{f"cost/{name}": figure for name, figure in record.costs.items() if figure is not None},
        "checkpoint_path": address(Path(work.run_dir) / record.final),
    }
    result = record.result or {}
    estimates = {**result.get("objectives", {}), **{name: result[name] for name in ("kl", "j_w") if name in result}}
    for name, estimate in estimates.items():
        row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    scalars = ("length", "distinct_n", "truncated", "kl_to_exact", "kl_exact_to_reference")
    return row | {name: result[name] for name in scalars if name in result}
