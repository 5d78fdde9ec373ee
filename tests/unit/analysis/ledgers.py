"""Small runs on disk, written the way a sweep writes them: ledger, evaluation artefacts, run.json and stages.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from modpo.artifacts import write_json, writing
from modpo.config.load import parse_config
from modpo.config.spec import TrialSpec
from modpo.config.tree import SweepConfig
from modpo.core.workload import StepTotals
from modpo.ledger import PointRecord, point_dir, write_point

BETA = 0.1
# 12.5 device seconds of each point, 2.5 of them in evaluations and 8 in steps.
DEVICE_SECONDS, EVALUATION_DEVICE_SECONDS = 12.5, 2.5
COUNTED = StepTotals(tokens=4000, padded_tokens=6000, flops=3 * 10**12, device_seconds=8.0, peak_flops=5e12)
EXACT_FIGURES = {"kl_to_exact": 0.02, "kl_exact_to_reference": 1.5, "outside_mass": 0.01}


@dataclass(frozen=True, kw_only=True)
class MadePoint:
    """A point to write.

    Attributes:
        values: objective values of each held-out prompt; None leaves the point without an evaluation.
        exact: objective values of the exact optimum, where answers are enumerated.
        responses: one response for each prompt; made up if left out.
        units: of the objectives whose unit is not 1.
        training: of its steps; by default of a model whose operations were counted.
    """

    trial_id: str
    weights: tuple[float, ...]
    values: Sequence[Sequence[float]] | None = None
    exact: Sequence[float] | None = None
    beta: float = BETA
    seed: int = 0
    status: str = "finished"
    error: str = ""
    kl: float = 2.0
    prompts: Sequence[str] = field(default_factory=tuple)
    responses: Sequence[str] = field(default_factory=tuple)
    units: Mapping[str, float] = field(default_factory=dict)
    training: StepTotals = COUNTED


def everywhere(*values: float, num_prompts: int = 4) -> list[list[float]]:
    """The same objective values on every prompt."""
    return [list(values)] * num_prompts


def make_config(*names: str, resamples: int = 200) -> SweepConfig:
    objectives = [
        {
            "name": name,
            "pairs": {"path": f"{name}.jsonl"},
            "reward": {"type": "function", "function": f"rewards:{name}"},
        }
        for name in names
    ]
    return parse_config(
        {
            "name": "small",
            "model": {"name_or_path": "demo:model"},
            "objectives": objectives,
            "evaluation": {"bootstrap_resamples": resamples},
        }
    )


def write_run(
    run_dir: Path,
    config: SweepConfig,
    points: Sequence[MadePoint],
    *,
    trials: Sequence[str] = (),
    vertices: Sequence[str] = (),
) -> Path:
    """Writes a run whose sweep has `trials`, or exactly these points."""
    write_json(
        run_dir / "run.json",
        {
            "config": config.model_dump(mode="json"),
            "config_digest": "0123456789abcdef",
            "versions": {"modpo": "0.1.0", "torch": "2.13.0"},
            "created_at": "2026-01-02T03:04:05+00:00",
            "trials": list(trials) or [point.trial_id for point in points],
            "vertices": list(vertices),
            "artifacts": {"rewards": "artifacts/rewards-00ff", "start_evaluation": "artifacts/start_evaluation-00ff"},
        },
    )
    write_json(
        run_dir / "stages.json",
        {
            "prepare": {"seconds": 1.5, "device_seconds": 0.0, "skipped": False},
            "annotate": {"seconds": 0.1, "device_seconds": 0.2, "skipped": True},
        },
    )
    for point in points:
        _write_point(run_dir, config, point)
    return run_dir


def _write_point(run_dir: Path, config: SweepConfig, point: MadePoint) -> None:
    names = config.objective_names
    primary = max(range(len(names)), key=lambda k: point.weights[k])
    trial = TrialSpec(
        trial_id=point.trial_id,
        weights=point.weights,
        primary=primary,
        beta=point.beta,
        seed=point.seed,
        sources=(primary,),
        uses_rewards=max(point.weights) < 1,
    )
    record = PointRecord.model_validate(
        {
            "spec": trial,
            "status": point.status,
            "error": point.error,
            "device_seconds": DEVICE_SECONDS,
            "evaluation_device_seconds": EVALUATION_DEVICE_SECONDS,
            "training": point.training,
        }
    )
    if point.values is not None:
        folder = point_dir(run_dir, point.trial_id) / "evaluation-00ff"
        _write_evaluation(folder, names, point, point.values)
        record = record.model_copy(
            update={
                "evaluation": str(folder.relative_to(run_dir)),
                "final": f"points/{point.trial_id}/final",
                "result": _result(names, point, point.values),
            }
        )
    write_point(run_dir, record)


def _write_evaluation(folder: Path, names: Sequence[str], point: MadePoint, values: Sequence[Sequence[float]]) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt_number": number, **dict(zip(names, row, strict=True)), "kl": point.kl}
        for number, row in enumerate(values)
    ]
    texts = [
        {
            "prompt": point.prompts[row["prompt_number"]] if point.prompts else f"prompt {row['prompt_number']}",
            "response": point.responses[row["prompt_number"]] if point.responses else f"answer of {point.trial_id}",
            "length": 5,
            "truncated": False,
            "kl_k1": point.kl,
        }
        for row in rows
    ]
    with writing(folder, {"stage": "evaluation"}) as aside:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), aside / "prompts.parquet")
        samples = pyarrow.Table.from_pylist([row | text for row, text in zip(rows, texts, strict=True)])
        pyarrow.parquet.write_table(samples, aside / "samples.parquet")


def _result(names: Sequence[str], point: MadePoint, values: Sequence[Sequence[float]]) -> dict[str, Any]:
    means = {name: sum(row[k] for row in values) / len(values) for k, name in enumerate(names)}
    j_w = sum(w * means[name] for w, name in zip(point.weights, names, strict=True)) - point.beta * point.kl
    result: dict[str, Any] = {
        "objectives": {name: _around(mean) for name, mean in means.items()},
        "kl": _around(point.kl),
        "kl_k1": point.kl,
        "j_w": _around(j_w),
        "pair_accuracy": {name: _around(0.7) for name in names},
        "units": dict.fromkeys(names, 1.0) | dict(point.units),
        "self_scored": [],
        "num_prompts": len(values),
        "num_samples": len(values),
        "truncated": 0.0,
        "length": 5.0,
        "distinct_n": 0.5,
    }
    if point.exact is not None:
        result |= {**EXACT_FIGURES, "exact_objectives": dict(zip(names, point.exact, strict=True))}
    return result


def _around(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}
