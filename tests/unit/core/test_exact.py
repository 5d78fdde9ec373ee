"""The exact optimum on a listed response space: hand-worked numbers and the identities of the method."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modpo.core.exact import compare_with_exact, exact_optimum
from tests.acceptance.plugin import Accept

BETA = 0.3


def random_world(seed: int, *, num_responses: int = 7, num_objectives: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Normalised reference log-probabilities (Y,) and rewards (Y, K)."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal(num_responses)
    return logits - math.log(np.exp(logits).sum()), generator.standard_normal((num_responses, num_objectives))


def random_policy(seed: int, num_responses: int = 7) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(num_responses)))


def on_simplex(seed: int, count: int, num_objectives: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(num_objectives), size=count)


def test_two_responses_by_hand() -> None:
    """Even reference, w.r = (beta log 3, 0): pi* = (3/4, 1/4).

    KL(pi*||ref) = .75 log 1.5 + .25 log .5 = .130812; KL(ref||pi*) = .5 log(2/3) + .5 log 2 = .143841.
    """
    reference, weights = np.log([0.5, 0.5]), np.array([0.5, 0.5])
    rewards = np.array([[2 * BETA * math.log(3), 0.0], [0.0, 0.0]])
    assert np.exp(exact_optimum(reference, rewards, weights=weights, beta=BETA)) == pytest.approx([0.75, 0.25])
    compared = compare_with_exact(reference, reference, rewards, weights=weights, beta=BETA)
    assert compared.kl_exact_to_reference == pytest.approx(0.130812, abs=1e-6)
    assert compared.kl_to_exact == pytest.approx(0.143841, abs=1e-6)
    assert compared.exact_values == pytest.approx([1.5 * BETA * math.log(3), 0.0])
    assert compared.outside_mass == pytest.approx(0, abs=1e-15)


def test_mass_outside_the_list_is_reported_and_left_out_of_the_divergence() -> None:
    """A policy with .9 of its mass on the list, in the proportions of the optimum, is at distance 0 within it."""
    reference, rewards = random_world(0)
    weights = np.array([0.2, 0.3, 0.5])
    optimum = exact_optimum(reference, rewards, weights=weights, beta=BETA)
    compared = compare_with_exact(optimum + math.log(0.9), reference, rewards, weights=weights, beta=BETA)
    assert compared.outside_mass == pytest.approx(0.1)
    assert compared.kl_to_exact == pytest.approx(0, abs=1e-12)


def test_scores_of_any_size_are_normalised() -> None:
    """exp(w.r / beta) overflows at 710; the optimum of a reward of a million is a certainty, not a NaN."""
    reference, rewards = np.log([0.5, 0.5]), np.array([[1e6, 0.0], [0.0, 0.0]])
    optimum = exact_optimum(reference, rewards, weights=np.array([1.0, 0.0]), beta=BETA)
    assert np.exp(optimum) == pytest.approx([1, 0])


@pytest.mark.parametrize("seed", range(5))
def test_value_of_any_policy_is_the_optimal_value_less_its_distance(seed: int, accept: Accept) -> None:
    """E_pi[w.r] - beta KL(pi||ref) = beta log Z - beta KL(pi||pi*) for every pi."""
    reference, rewards = random_world(seed)
    weights, policy = on_simplex(seed, 1)[0], random_policy(100 + seed)
    probabilities = np.exp(policy)
    value = probabilities @ rewards @ weights - BETA * probabilities @ (policy - reference)
    log_partition = math.log((np.exp(reference) * np.exp(rewards @ weights / BETA)).sum())
    compared = compare_with_exact(policy, reference, rewards, weights=weights, beta=BETA)
    error = abs(value - (BETA * log_partition - BETA * compared.kl_to_exact))
    accept("B3", "difference of the two sides", error, at_most=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_optimum_is_the_weighted_product_of_the_vertices(seed: int, accept: Accept) -> None:
    """pi*_w is proportional to the product of pi*_j^w_j over the single-objective optima."""
    reference, rewards = random_world(seed)
    weights = on_simplex(seed, 1)[0]
    vertices = [exact_optimum(reference, rewards, weights=np.eye(3)[j], beta=BETA) for j in range(3)]
    mixture = np.exp(np.array(vertices).T @ weights)
    optimum = np.exp(exact_optimum(reference, rewards, weights=weights, beta=BETA))
    accept("B4", "max |pi* - product|", np.abs(mixture / mixture.sum() - optimum).max(), at_most=1e-10)


def test_moving_weight_never_moves_values_against_it(accept: Accept) -> None:
    """(w - w').(V(w) - V(w')) >= 0 for all pairs of 200 weights: the gradient of a convex function is monotone."""
    reference, rewards = random_world(9)
    grid = on_simplex(9, 200)
    values = np.array(
        [compare_with_exact(reference, reference, rewards, weights=w, beta=BETA).exact_values for w in grid]
    )
    inner = ((grid[:, None] - grid[None]) * (values[:, None] - values[None])).sum(-1)
    smallest = inner[~np.eye(len(grid), dtype=bool)].min()
    accept("B5", "smallest (w - w').(V(w) - V(w')) of 200 weights", smallest, at_least=-1e-12)


def test_more_weight_gives_more_value_and_a_negated_reward_less(accept: Accept) -> None:
    reference, rewards = random_world(4)
    negated = rewards * np.array([1.0, -1.0, 1.0])
    weights = [np.array([1 - w, w, 0.0]) for w in (0.0, 0.2, 0.8)]

    def second_value(table: np.ndarray, w: np.ndarray) -> float:
        return float(np.exp(exact_optimum(reference, table, weights=w, beta=BETA)) @ rewards[:, 1])

    rising, falling = ([second_value(table, w) for w in weights] for table in (rewards, negated))
    accept("B6", "smallest rise of E[r_m] from one weight to the next", np.diff(rising).min(), at_least=0.01)
    accept("B6", "smallest fall of E[r_m] where -r_m is the margin", -np.diff(falling).max(), at_least=0.01)


def test_a_large_beta_stays_at_the_reference() -> None:
    reference, rewards = random_world(5)
    weights = np.array([0.2, 0.3, 0.5])
    near = compare_with_exact(reference, reference, rewards, weights=weights, beta=1e4)
    assert near.kl_exact_to_reference == pytest.approx(0, abs=1e-7)
    assert near.exact_values == pytest.approx(np.exp(reference) @ rewards, abs=1e-3)
