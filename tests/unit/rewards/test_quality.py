"""Held-out quality of reward models, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modpo.rewards.quality import calibration, pair_accuracy, regression_errors


def accuracy(gaps: list[float], prompts: list[str]) -> dict[str, float]:
    return pair_accuracy(np.array(gaps), prompts, seed=0, level=0.95, resamples=500)


class TestAccuracy:
    def test_share_of_pairs_and_half_a_tie(self) -> None:
        assert accuracy([1.0, 2.0, -1.0, 0.0], ["a", "b", "c", "d"])["value"] == 2.5 / 4

    def test_pairs_count_alike_however_they_fall_to_prompts(self) -> None:
        assert accuracy([1.0, 1.0, 1.0, -1.0], ["a", "a", "a", "b"])["value"] == 0.75

    def test_pairs_of_one_prompt_are_no_more_evidence_than_the_prompt(self) -> None:
        gaps = [1.0, -1.0] * 10
        by_prompt = accuracy([gap for gap in gaps for _ in range(50)], [str(n) for n in range(20) for _ in range(50)])
        apart = accuracy([gap for gap in gaps for _ in range(50)], [str(n) for n in range(1000)])
        assert by_prompt["high"] - by_prompt["low"] > 5 * (apart["high"] - apart["low"])


class TestCalibration:
    def test_frequencies_as_said_are_no_error(self) -> None:
        """Gap log 3 says 3 of 4."""
        found = calibration(math.log(3) * np.array([1.0, 1.0, 1.0, -1.0]))
        assert found["expected_calibration_error"] == pytest.approx(0, abs=1e-12)
        (row,) = found["reliability"]
        assert (row["pairs"], row["accuracy"]) == (4, 0.75)
        assert row["confidence"] == pytest.approx(0.75)

    def test_overconfidence(self) -> None:
        """All but sure, and right half of the time."""
        found = calibration(50 * np.array([1.0, -1.0]))
        assert found["expected_calibration_error"] == pytest.approx(0.5)
        assert found["reliability"][0]["to"] == 1.0

    def test_error_is_weighted_by_pairs(self) -> None:
        """Three pairs at .75 that are all right, one tie that is half right: (3/4) .25."""
        found = calibration(np.array([math.log(3)] * 3 + [0.0]))
        assert found["expected_calibration_error"] == pytest.approx(3 / 4 * 0.25)
        assert [row["pairs"] for row in found["reliability"]] == [1, 3]


class TestRegression:
    TARGETS = np.array([1.0, 2.0, 3.0, 4.0])

    def test_exact(self) -> None:
        assert regression_errors(self.TARGETS, self.TARGETS) == {
            "r2": 1.0,
            "pearson": pytest.approx(1.0),
            "mean_absolute_error": 0.0,
        }

    def test_right_order_in_wrong_units(self) -> None:
        """A doubling: errors 1, 2, 3, 4 with squares 30, against a spread of 5."""
        found = regression_errors(2 * self.TARGETS, self.TARGETS)
        assert found == {"r2": 1 - 30 / 5, "pearson": pytest.approx(1.0), "mean_absolute_error": 2.5}

    def test_what_has_no_value_is_none(self) -> None:
        assert regression_errors(self.TARGETS, np.ones(4)) == {"r2": None, "pearson": None, "mean_absolute_error": 1.5}
        assert regression_errors(np.full(4, 2.5), self.TARGETS) == {
            "r2": 0.0,
            "pearson": None,
            "mean_absolute_error": 1.0,
        }
