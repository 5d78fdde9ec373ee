"""Where a run's device time went: stage by stage, and the shares of training, annotation and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from modpo.analysis.load import STAGES
from modpo.analysis.rows import Point

ANNOTATION = ("reference", "annotate")
# In these, work that is no point's is the measurement of the start model.
MEASURING = ("sweep", "evaluate")


def run_costs(
    stages: Mapping[str, Mapping[str, Any]], points: Sequence[Point], vertices: Collection[str]
) -> dict[str, Any]:
    """Device seconds as the summary lists them.

    Args:
        stages: with the device seconds of their work that is no point's.
        points: all that the ledger has, bare vertices and points of earlier sweeps too: their time was spent.
        vertices: ids of the points whose training belongs to the stage of that name.
    """
    own = {name: float(stage["device_seconds"]) for name, stage in stages.items()}
    training_vertices = _training([point for point in points if point["trial_id"] in vertices])
    training_others = _training([point for point in points if point["trial_id"] not in vertices])
    measuring = sum(point["evaluation_device_seconds"] or 0.0 for point in points)
    measuring += sum(own.get(name, 0.0) for name in MEASURING)
    by_stage: dict[str, float | None] = {
        **own,
        "vertices": own.get("vertices", 0.0) + training_vertices,
        "sweep": training_others + measuring,
    }
    if "evaluate" in own:
        # Its measurements are in the ledger, where they cannot be told from the sweep's own.
        by_stage["evaluate"] = None
    total = sum(seconds or 0.0 for seconds in by_stage.values())
    # While a sweep is running, its points cost something before their stage has ended.
    known = [name for name in STAGES if name in own or by_stage.get(name)]
    return {
        "device_seconds": total,
        "stages": {name: _part(by_stage[name], total) for name in dict.fromkeys((*known, *own))},
        "training": _part(training_vertices + training_others, total),
        "annotation": _part(sum(own.get(name, 0.0) for name in ANNOTATION), total),
        "evaluation": _part(measuring, total),
    }


def _training(points: Sequence[Point]) -> float:
    return sum(point["training_device_seconds"] or 0.0 for point in points)


def _part(seconds: float | None, total: float) -> dict[str, float | None]:
    return {"device_seconds": seconds, "share": seconds / total if seconds is not None and total else None}
