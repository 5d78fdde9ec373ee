"""From a run's ledger to its front: one JSON value with every figure of the report, documented in docs/summary.md.

Unknown figures are None, never NaN. Every objective is higher-is-better.
Shapes: P held-out prompts, N finished and evaluated points, K objectives, R bootstrap resamples, M pairs of points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modpo.analysis.costs import run_costs
from modpo.analysis.load import Front, Matrix, read_manifest, read_run
from modpo.analysis.rows import EXACT_AVERAGES, Point
from modpo.config.tree import SweepConfig
from modpo.core.estimators import Estimate, bootstrap
from modpo.core.pareto import hypervolume, nadir_minus, non_dominated_mask

__all__ = ["read_manifest", "summarise_run"]

STATUSES = ("finished", "trained", "failed", "running", "pending", "missing")
NADIR_MARGIN = 0.1
# Below these shares of the start model's figures a policy says next to nothing, or the same again and again.
COLLAPSED_LENGTH = 0.25
COLLAPSED_DISTINCT = 0.5


def summarise_run(run_dir: Path) -> dict[str, Any]:
    """Everything the report shows, as JSON values.

    Raises:
        InputError: the folder is no run, or files in it are damaged: all of them are named.
    """
    files = read_run(run_dir)
    config, front = files.run.config, files.front
    dominated = _dominated(front) if front else {}
    return {
        "name": config.name,
        "created_at": files.run.created_at,
        "config_digest": files.run.config_digest,
        "versions": files.run.versions,
        "stages": files.stages,
        "level": config.evaluation.level,
        "objectives": _objectives(config, files.points),
        "costs": run_costs(files.stages, [*files.points, *files.other_points], files.run.vertices),
        "points": [
            {
                **point,
                "dominated": dominated.get(point["trial_id"]),
                "collapsed": collapse(point, files.start),
                "overshot": overshoot(point, files.start),
            }
            for point in files.points
        ],
        "start": files.start,
        "meaning": files.meaning,
        "other_points": files.other_points,
        "counts": _counts(files.points, front),
        "num_prompts": len(front.prompt_numbers) if front else 0,
        "hypervolume": _hypervolume(front, config) if front else None,
        "exact": _exact(front) if front else None,
        "monotonicity": _monotonicity(front, config) if front else None,
        "samples": files.samples,
    }


def _objectives(config: SweepConfig, points: Sequence[Point]) -> list[dict[str, Any]]:
    """With the units that the points were measured in; declared ones where none is."""
    fixed: dict[str, float] = next((point["units"] for point in points if point["units"]), {})
    return [
        {
            "name": objective.name,
            "unit": fixed.get(objective.name, objective.unit),
            "normalize": objective.normalize,
            "direction": objective.direction,
            "self_scored": objective.is_self_scored,
        }
        for objective in config.objectives
    ]


def collapse(point: Point, start: Point | None) -> str | None:
    """How a point's responses have degenerated beside the start model's; a reward that praises it does not show it."""
    if start is None or point["length"] is None:
        return None
    if point["length"] < COLLAPSED_LENGTH * start["length"]:
        return f"responses of {point['length']:.1f} tokens, {start['length']:.1f} in the start model"
    if point["distinct_n"] < COLLAPSED_DISTINCT * start["distinct_n"]:
        return f"distinct word pairs {point['distinct_n']:.2f}, {start['distinct_n']:.2f} in the start model"
    return None


def overshoot(point: Point, start: Point | None) -> str | None:
    """Where J_w lies surely below that of the start model, whose KL is 0: the optimum never does."""
    if start is None or point["j_w"] is None:
        return None
    untrained = sum(weight * start["objectives"][name]["value"] for name, weight in point["weights"].items())
    if point["j_w"]["high"] >= untrained:
        return None
    return f"J_w {point['j_w']['value']:.3g}, {untrained:.3g} in the start model, KL {point['kl']['value']:.3g} nats"


def _counts(points: Sequence[Point], front: Front | None) -> dict[str, int]:
    found = Counter(point["status"] for point in points)
    return {
        "points": len(points),
        **{status: found[status] for status in STATUSES},
        "evaluated": len(front.records) if front else 0,
    }


def _dominated(front: Front) -> dict[str, bool]:
    mask = non_dominated_mask(front.means_NK)
    return {record.spec.trial_id: not kept for record, kept in zip(front.records, mask.tolist(), strict=True)}


def _exact_values(front: Front) -> Matrix | None:
    """(N, K) values of the exact optimum at each point's own weights and beta, where every point has one."""
    exact = [point["exact_objectives"] for point in front.points]
    return np.array([list(values.values()) for values in exact]) if all(exact) else None


def _corner(front: Front) -> Matrix:
    """The corner of all hypervolumes of a run: from the exact front where there is one, else from the run itself."""
    exact_NK = _exact_values(front)
    return nadir_minus(front.means_NK if exact_NK is None else exact_NK, fraction=NADIR_MARGIN)


def _hypervolume(front: Front, config: SweepConfig) -> dict[str, Any]:
    """With an interval over the held-out prompts, resampled for all points together; the corner stays fixed."""
    corner = _corner(front)
    estimate = bootstrap(
        front.values_PNK,
        lambda values_PNK: hypervolume(values_PNK.mean(axis=0), hv_ref_point=corner),
        seed=config.seed,
        level=config.evaluation.level,
        resamples=config.evaluation.bootstrap_resamples,
    )
    return {
        **estimate.as_dict(),
        "hv_ref_point": dict(zip(config.objective_names, corner.tolist(), strict=True)),
        "hv_ref_point_from": "trained" if _exact_values(front) is None else "exact",
    }


def _exact(front: Front) -> dict[str, Any] | None:
    """The exact front at the points' own weights, and the share of its hypervolume that the trained front has."""
    exact_NK = _exact_values(front)
    if exact_NK is None:
        return None
    corner = _corner(front)
    exact = hypervolume(exact_NK, hv_ref_point=corner)
    trained = hypervolume(front.means_NK, hv_ref_point=corner)
    return {
        "hypervolume": exact,
        "ratio": trained / exact if exact > 0 else None,
        **{f"mean_{name}": float(np.mean([point[name] for point in front.points])) for name in EXACT_AVERAGES},
    }


def _monotonicity(front: Front, config: SweepConfig) -> dict[str, Any]:
    """Pairs of points of one beta where more weight bought less: (w - w').(E_w - E_w') with its whole interval below 0.

    At the optimum this product is never negative: E_w is the gradient of a convex function of w.
    """
    weights_NK = np.array([record.spec.weights for record in front.records])
    betas_N = np.array([record.spec.beta for record in front.records])
    resamples_RP = _resamples(len(front.prompt_numbers), config)
    tail = (1 - config.evaluation.level) / 2
    num_pairs, violations = 0, []
    for first, record in enumerate(front.records):
        steps_NK = weights_NK[first] - weights_NK
        later = np.arange(len(betas_N)) > first
        seconds = np.flatnonzero(later & (betas_N == record.spec.beta) & steps_NK.any(axis=1))
        num_pairs += len(seconds)
        gaps_PM = ((front.values_PNK[:, [first]] - front.values_PNK[:, seconds]) * steps_NK[seconds]).sum(axis=-1)
        # An interval of a mean lies below 0 only where the mean does: the other pairs need no resamples.
        below = gaps_PM.mean(axis=0) < 0
        low_M, high_M = np.quantile(resamples_RP @ gaps_PM[:, below], [tail, 1 - tail], axis=0)
        for second, value, low, high in zip(
            seconds[below], gaps_PM[:, below].mean(axis=0).tolist(), low_M.tolist(), high_M.tolist(), strict=True
        ):
            if high < 0:
                ids = {"first": record.spec.trial_id, "second": front.records[second].spec.trial_id}
                violations.append({**ids, **Estimate(value=value, low=low, high=high).as_dict()})
    return {"num_pairs": num_pairs, "violations": violations}


def _resamples(num_prompts: int, config: SweepConfig) -> Matrix:
    """(R, P) shares of the prompts in each resample: the ones that `bootstrap` draws, for many pairs at once."""
    generator = np.random.default_rng(config.seed)
    draws = [generator.integers(num_prompts, size=num_prompts) for _ in range(config.evaluation.bootstrap_resamples)]
    return np.array([np.bincount(draw, minlength=num_prompts) for draw in draws]) / num_prompts
