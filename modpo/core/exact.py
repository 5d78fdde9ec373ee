"""The exact optimum on an enumerated response space, where one exists: the yardstick of the demo and of `verify`.

Shapes: Y responses of one prompt, K objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ExactComparison:
    """A trained policy against pi*_w on the responses of one prompt, all restricted to the enumerated space.

    Attributes:
        kl_to_exact: KL(pi || pi*_w) in nats, both normalised on the space.
        max_log_error: max |log pi - log pi*_w| in nats, over the space.
        kl_exact_to_reference: KL(pi*_w || pi_ref) in nats.
        exact_values: (K,) expectation of the rewards under pi*_w.
        outside_mass: probability that the policy puts on responses outside the space.
    """

    kl_to_exact: float
    max_log_error: float
    kl_exact_to_reference: float
    exact_values: Vector
    outside_mass: float


def exact_optimum(reference_logps_Y: Vector, rewards_YK: Vector, *, weights: Vector, beta: float) -> Vector:
    """log pi*_w = log pi_ref + w.r~ / beta - log Z on the enumerated space, (Y,)."""
    return _normalised(reference_logps_Y + rewards_YK @ weights / beta)


def compare_with_exact(
    policy_logps_Y: Vector, reference_logps_Y: Vector, rewards_YK: Vector, *, weights: Vector, beta: float
) -> ExactComparison:
    """How far a policy is from the optimum of E[w.r~] - beta KL(pi || pi_ref) for one prompt."""
    optimum = exact_optimum(reference_logps_Y, rewards_YK, weights=weights, beta=beta)
    policy, reference = _normalised(policy_logps_Y), _normalised(reference_logps_Y)
    return ExactComparison(
        kl_to_exact=_kl(policy, optimum),
        max_log_error=float(np.abs(policy - optimum).max()),
        kl_exact_to_reference=_kl(optimum, reference),
        exact_values=np.exp(optimum) @ rewards_YK,
        outside_mass=float(max(0.0, 1.0 - np.exp(policy_logps_Y).sum())),
    )


def _normalised(logps_Y: Vector) -> Vector:
    peak = logps_Y.max()
    normalised: Vector = logps_Y - peak - np.log(np.exp(logps_Y - peak).sum())
    return normalised


def _kl(p_Y: Vector, q_Y: Vector) -> float:
    return float(np.exp(p_Y) @ (p_Y - q_Y))
