"""How well a reward model does on held-out data: accuracy and calibration on pairs, errors on numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modpo.core.estimators import bootstrap

CALIBRATION_BINS = 10

Floats = NDArray[np.float64]


def pair_accuracy(
    gaps: Floats, prompts: Sequence[Hashable], *, seed: int, level: float, resamples: int
) -> dict[str, float]:
    """Share of pairs whose chosen response has the higher reward, with its interval over prompts; a tie is half.

    Args:
        gaps: r(chosen) - r(rejected) of each pair.
        prompts: the prompt of each pair, or a number of it; pairs of one prompt are resampled together.
    """
    correct: dict[Hashable, list[float]] = defaultdict(list)
    for gap, prompt in zip(gaps, prompts, strict=True):
        correct[prompt].append(0.5 if gap == 0 else float(gap > 0))
    sums_P2 = np.array([[sum(values), len(values)] for values in correct.values()])
    return bootstrap(
        sums_P2, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()), seed=seed, level=level, resamples=resamples
    ).as_dict()


def calibration(gaps: Floats) -> dict[str, Any]:
    """Whether sigmoid(gap) is the probability that it is read as.

    A pair is predicted to go to its higher reward with confidence sigmoid(|gap|), in [0.5, 1]; the bins part that range
    evenly. The expected calibration error is the mean over pairs of |share that was right - mean confidence| of the
    pair's bin.

    Returns:
        `expected_calibration_error`, and `reliability` with a row for each bin that has pairs.
    """
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    correct = np.where(gaps == 0, 0.5, gaps > 0)
    edges = np.linspace(0.5, 1, CALIBRATION_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, CALIBRATION_BINS - 1)
    rows = [
        {
            "from": float(edges[number]),
            "to": float(edges[number + 1]),
            "pairs": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(correct[inside].mean()),
        }
        for number in range(CALIBRATION_BINS)
        if (inside := bins == number).any()
    ]
    error = sum(row["pairs"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(gaps)
    return {"expected_calibration_error": float(error), "reliability": rows}


def regression_errors(predicted: Floats, targets: Floats) -> dict[str, float | None]:
    """R^2, Pearson's correlation and mean absolute error in raw units.

    None stands for what has no value: R^2 where all targets are equal, the correlation where either side is constant.
    """
    errors = predicted - targets
    spread = float(((targets - targets.mean()) ** 2).sum())
    constant = spread == 0 or float(np.ptp(predicted)) == 0
    return {
        "r2": None if spread == 0 else 1 - float((errors**2).sum()) / spread,
        "pearson": None if constant else float(np.corrcoef(predicted, targets)[0, 1]),
        "mean_absolute_error": float(np.abs(errors).mean()),
    }
