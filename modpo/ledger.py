"""The run's own truth: one small JSON for each Pareto point. Tune's state is never read back.

RUN/points/<trial_id>/point.json       status, spec, progress, result or root cause
                      checkpoints/     resumable state (training.checkpoint)
                      final/           trained adapter or model
                      evaluation-*/    held-out measurement, one artefact per evaluation setting
                      metrics.jsonl    one row every logging_steps
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from modpo.artifacts import find_json, is_complete, write_json
from modpo.config.frozen import Frozen
from modpo.config.spec import TrialSpec
from modpo.core.workload import UNKNOWN_TOTALS, StepTotals
from modpo.storage import stored

Status = Literal["pending", "running", "trained", "finished", "failed"]


class PointRecord(Frozen):
    """Everything the ledger knows about one point.

    Attributes:
        status: a point is `trained` until its evaluation is there too; then it is `finished`.
        device_seconds: wall-clock seconds times devices, summed over all attempts: loading, steps that were lost and
            taken again, and evaluations included.
        evaluation_device_seconds: those of them that went into evaluations, and into early stopping's looks.
        training: tokens, operations and time of the steps that led to the trained weights, each step once.
        error: one-line root cause of a failed point.
        exit_status: what a run ends with because of it (docs/errors.md).
        final: folder of the trained adapter or model, relative to the run.
        evaluation: folder of the newest evaluation, relative to the run.
        result: the evaluation's summary, as documented in docs/summary.md.
    """

    spec: TrialSpec
    status: Status = "pending"
    attempts: int = 0
    step: int = 0
    num_steps: int = 0
    device_seconds: float = 0.0
    evaluation_device_seconds: float = 0.0
    training: StepTotals = UNKNOWN_TOTALS
    updated_at: float = 0.0
    error: str = ""
    exit_status: int = 0
    final: str = ""
    evaluation: str = ""
    result: dict[str, Any] | None = None

    @property
    def costs(self) -> dict[str, float | None]:
        """Cost and speed by the names of docs/summary.md, None where they are not known."""
        training = self.training
        return {
            "device_seconds": self.device_seconds,
            "training_device_seconds": self.device_seconds - self.evaluation_device_seconds,
            "evaluation_device_seconds": self.evaluation_device_seconds,
            "step_device_seconds": training.device_seconds,
            "tokens": training.tokens,
            "padded_ratio": training.padded_ratio,
            "tokens_per_device_second": training.tokens_per_device_second,
            "useful_flops": None if training.flops is None else float(training.flops),
            "mfu": training.mfu,
        }


def final_dir(run_dir: Path, trial: TrialSpec) -> Path:
    """Where a point's trained adapter or model stands."""
    return point_dir(run_dir, trial.trial_id) / "final"


def evaluation_dir(run_dir: Path, trial: TrialSpec, measurement: str) -> Path:
    """Where a point's evaluation stands, by the digest of everything that it is measured with."""
    return point_dir(run_dir, trial.trial_id) / f"evaluation-{measurement}"


def is_trained(run_dir: Path, trial: TrialSpec) -> bool:
    """Whether a point has its final weights, measured or not."""
    record = read_point(run_dir, trial.trial_id)
    return record is not None and record.status in ("trained", "finished") and is_complete(final_dir(run_dir, trial))


def is_finished(run_dir: Path, trial: TrialSpec, measurement: str) -> bool:
    """Whether a point is trained, and measured under this digest."""
    record, folder = read_point(run_dir, trial.trial_id), evaluation_dir(run_dir, trial, measurement)
    return (
        record is not None
        and record.status == "finished"
        and record.evaluation == str(folder.relative_to(run_dir))
        and is_complete(folder)
        and is_complete(final_dir(run_dir, trial))
    )


def point_dir(run_dir: Path, trial_id: str) -> Path:
    return run_dir / "points" / trial_id


def point_ids(run_dir: Path) -> list[str]:
    """Every point that the ledger has an entry of, damaged ones among them."""
    points = run_dir / "points"
    place = stored(points)
    names = map(Path, place.sizes()) if place else (path.relative_to(points) for path in points.glob("*/point.json"))
    return sorted(name.parts[0] for name in names if name.name == "point.json" and len(name.parts) == 2)


def read_point(run_dir: Path, trial_id: str) -> PointRecord | None:
    """The record of a point, or None where the point was never started."""
    found = find_json(point_dir(run_dir, trial_id) / "point.json")
    return None if found is None else PointRecord.model_validate(found)


def write_point(run_dir: Path, record: PointRecord) -> None:
    stamped = record.model_copy(update={"updated_at": time.time()})
    write_json(point_dir(run_dir, record.spec.trial_id) / "point.json", stamped.model_dump(mode="json"))


def update_point(run_dir: Path, trial: TrialSpec, **changes: Any) -> PointRecord:
    """Writes the record with some fields replaced. One worker group holds a point at a time, so writes never race."""
    record = read_point(run_dir, trial.trial_id) or PointRecord(spec=trial)
    changed = record.model_copy(update=changes)
    write_point(run_dir, changed)
    return changed
