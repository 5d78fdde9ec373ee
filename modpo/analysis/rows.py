"""One point as the summary lists it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modpo.config.tree import SweepConfig
from modpo.ledger import PointRecord

Point = dict[str, Any]

# What an evaluation adds to a point beside its intervals: averages, and those against the exact optimum.
AVERAGES = (
    "length",
    "distinct_n",
    "truncated",
    "pair_accuracy",
    "self_scored",
    "units",
    "num_prompts",
    "num_samples",
    "kl_k1",
)
EXACT_AVERAGES = ("kl_to_exact", "kl_exact_to_reference", "outside_mass")

# Of training and measuring it, in the ledger's own names.
DEVICE_SECONDS = ("training_device_seconds", "evaluation_device_seconds")
COSTS = (
    "device_seconds",
    *DEVICE_SECONDS,
    "step_device_seconds",
    "tokens",
    "padded_ratio",
    "tokens_per_device_second",
    "useful_flops",
    "mfu",
)


def encodable(text: str) -> str:
    """A file name that is no UTF-8 reaches an error message as lone surrogates, which no file format takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def point_row(config: SweepConfig, record: PointRecord | None) -> Point:
    """A point as the summary lists it; None stands for what the ledger does not know."""
    names = config.objective_names
    unknown = ("weights", "primary", "beta", "seed", *COSTS, "checkpoint", "error")
    measured = ("objectives", "kl", "j_w", *AVERAGES, "exact_objectives", *EXACT_AVERAGES)
    row: Point = {"status": "missing", **dict.fromkeys((*unknown, *measured))}
    if record is None:
        return row
    row |= {
        "status": record.status,
        "weights": dict(zip(names, record.spec.weights, strict=True)),
        "primary": record.spec.primary_name(names),
        "beta": record.spec.beta,
        "seed": record.spec.seed,
        **record.costs,
        "checkpoint": record.final or None,
        "error": encodable(record.error) or None,
    }
    return row if record.result is None else row | _measured_figures(record.result, names)


def _measured_figures(result: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    figures = {
        "objectives": {name: interval(result["objectives"][name]) for name in names},
        "kl": interval(result["kl"]),
        "j_w": interval(result["j_w"]),
        **{name: result[name] for name in AVERAGES},
    }
    if "exact_objectives" in result:
        figures["exact_objectives"] = {name: float(result["exact_objectives"][name]) for name in names}
        figures |= {name: float(result[name]) for name in EXACT_AVERAGES}
    return figures


def interval(estimate: Mapping[str, float]) -> dict[str, float]:
    return {bound: float(estimate[bound]) for bound in ("value", "low", "high")}
