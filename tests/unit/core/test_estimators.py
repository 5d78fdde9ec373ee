"""Bootstrap intervals: coverage, pairing and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modpo.core.estimators import bootstrap, bootstrap_mean
from tests.acceptance.plugin import Accept


def test_interval_covers_the_true_mean_as_often_as_it_says(accept: Accept) -> None:
    """200 normal values, 800 times over: a 95 % interval holds the true mean in 93 to 97 % of them."""
    samples = 3 + 2 * np.random.default_rng(0).standard_normal((800, 200))
    estimates = [bootstrap_mean(values, seed=number, resamples=300) for number, values in enumerate(samples)]
    covered = np.mean([estimate.low <= 3 <= estimate.high for estimate in estimates])
    accept("E4", "share of intervals that hold the mean, of 95 %: not less", covered, at_least=0.93)
    accept("E4", "share of intervals that hold the mean, of 95 %: not more", covered, at_most=0.97)


def test_value_is_the_plain_mean_inside_its_interval() -> None:
    estimate = bootstrap_mean([1, 2, 3, 10], seed=0)
    assert estimate.value == 4
    assert 1 < estimate.low < 4 < estimate.high < 10
    assert estimate.as_dict() == {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def test_equal_values_have_an_interval_without_width() -> None:
    assert bootstrap_mean([2.5] * 7, seed=0).as_dict() == {"value": 2.5, "low": 2.5, "high": 2.5}


def test_width_follows_the_standard_error_of_a_normal_mean() -> None:
    """Values alternating -1 and 1 have deviation 1: the half width is close to 1.96 / sqrt(400) = .098."""
    estimate = bootstrap_mean([-1.0, 1.0] * 200, seed=0, resamples=4000)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 / 20, rel=0.06)


def test_a_higher_level_is_wider() -> None:
    values = np.random.default_rng(1).standard_normal(50)
    widths = [bootstrap_mean(values, seed=0, level=level) for level in (0.8, 0.95, 0.99)]
    assert [e.high - e.low for e in widths] == sorted(e.high - e.low for e in widths)
    assert widths[0].low > widths[1].low > widths[2].low


def test_same_seed_pairs_the_resamples() -> None:
    """Two estimates over the same prompts draw the same prompts, so a constant difference keeps its exact size."""
    values = np.random.default_rng(2).standard_normal(40)
    first, second = bootstrap_mean(values, seed=5), bootstrap_mean(values + 8, seed=5)
    assert (second.low - first.low, second.high - first.high) == pytest.approx((8, 8), abs=1e-12)
    assert bootstrap_mean(values, seed=5) == first
    assert bootstrap_mean(values, seed=6) != first


def test_statistic_sees_whole_rows() -> None:
    """A ratio whose rows all have the ratio 2 has no spread, however the rows are drawn."""
    rows = np.array([[2.0, 1.0], [8.0, 4.0], [1.0, 0.5]])
    estimate = bootstrap(rows, lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()), seed=0, resamples=50)
    assert (estimate.low, estimate.value, estimate.high) == (2, 2, 2)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_only_a_vector_of_finite_numbers_has_a_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="non-empty vector of finite numbers"):
        bootstrap_mean(values, seed=0)
