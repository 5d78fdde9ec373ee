"""The world of `modpo verify`: its labels are Bradley-Terry's exactly, and its judge knows an optimum from its like."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modpo.config.spec import TrialSpec
from modpo.config.tree import SweepConfig
from modpo.data.loading import load_data
from modpo.verification.measure import judge
from modpo.verification.sweeps import verification_sweep
from modpo.verification.table import DISHES, MEALS, OBJECTIVES, no_dishes, price, rewards_of, taste, worths
from modpo.verification.world import comparisons, pairs, write_world

WEIGHTS = (0.5, 0.3, 0.2)
MEAL = MEALS[0]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    folder = tmp_path_factory.mktemp("verify")
    write_world(folder / "world")
    return verification_sweep(3, world=folder / "world", storage_path=folder)


@pytest.fixture
def point(sweep: SweepConfig) -> TrialSpec:
    return TrialSpec(
        trial_id="p", weights=WEIGHTS, primary=0, beta=sweep.training.beta, seed=0, sources=(0,), uses_rewards=True
    )


@pytest.fixture
def reference() -> np.ndarray:
    """Log-probabilities (1, Y) that sum to less than one: some mass lies outside of the dishes."""
    logits = np.linspace(-1, 1, len(DISHES))
    return (logits - math.log(np.exp(logits).sum()) - 0.1)[None]


def optimum(reference: np.ndarray, sweep: SweepConfig, weights: tuple[float, ...] = WEIGHTS) -> np.ndarray:
    """pi_ref times the worths to the powers w_j / (s_j beta), written out in products."""
    units = [objective.unit for objective in sweep.objectives]
    table = np.exp(reference)
    for name, weight, unit in zip(OBJECTIVES, weights, units, strict=True):
        table = table * np.array([worths(name)[MEAL, dish] for dish in DISHES]) ** (weight / unit / sweep.training.beta)
    return np.log(table / table.sum())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_wins_and_losses_are_in_the_proportion_of_the_worths(objective: str) -> None:
    labels = Counter((row["prompt"], row["chosen"], row["rejected"]) for row in pairs(objective))
    for meal in MEALS:
        worth = {dish: worths(objective)[meal, dish] for dish in DISHES} | dict.fromkeys(no_dishes(meal), 1)
        for first, second in comparisons(meal):
            won, lost = labels[meal, first, second], labels[meal, second, first]
            assert won * worth[second] == lost * worth[first] > 0


def test_what_it_costs_is_the_opposite_of_what_it_is_worth() -> None:
    assert price([MEAL, MEAL], [DISHES[0], DISHES[1]]) == [-r for r in rewards_of(MEAL, ["thrift"])[:2, 0]]
    assert taste([MEAL], ["stone"]) == [0]


def test_objectives_conflict() -> None:
    """Where two objectives agree everywhere, one front point would pass for another."""
    for one, other in itertools.combinations(OBJECTIVES, 2):
        first, second = (np.concatenate([rewards_of(meal, [name])[:, 0] for meal in MEALS]) for name in (one, other))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_the_files_are_accepted_row_by_row(sweep: SweepConfig) -> None:
    loaded = load_data(sweep)
    for objective in OBJECTIVES:
        assert loaded.objectives[objective].counts.pairs == len(list(pairs(objective)))


class TestJudge:
    def test_the_optimum_passes(self, sweep: SweepConfig, point: TrialSpec, reference: np.ndarray) -> None:
        case = judge(sweep, point, [MEAL], reference=reference, policy=optimum(reference, sweep))
        assert case.passed
        assert (case.kl, case.max_log_error) == pytest.approx((0, 0), abs=1e-12)
        assert case.weights == dict(zip(OBJECTIVES, WEIGHTS, strict=True))

    def test_one_wrong_probability_does_not(self, sweep: SweepConfig, point: TrialSpec, reference: np.ndarray) -> None:
        policy = optimum(reference, sweep)
        policy[0, 3] += 0.1
        case = judge(sweep, point, [MEAL], reference=reference, policy=policy)
        assert not case.passed
        assert case.max_log_error > 0.05

    @pytest.mark.parametrize("weights", [(0.5, 0.3, -0.2), (0.5, -0.3, 0.2), (0.3, 0.5, 0.2), (0.5, 0.3, 0.4)], ids=str)
    def test_nor_does_the_optimum_of_a_wrong_sign_weight_or_unit(
        self, sweep: SweepConfig, point: TrialSpec, reference: np.ndarray, weights: tuple[float, ...]
    ) -> None:
        policy = optimum(reference, sweep, weights)
        assert not judge(sweep, point, [MEAL], reference=reference, policy=policy).passed

    def test_nor_does_the_start_model(self, sweep: SweepConfig, point: TrialSpec, reference: np.ndarray) -> None:
        assert not judge(sweep, point, [MEAL], reference=reference, policy=reference).passed

    def test_the_limits_stand_in_what_is_written(
        self, sweep: SweepConfig, point: TrialSpec, reference: np.ndarray
    ) -> None:
        case = judge(sweep, point, [MEAL], reference=reference, policy=reference)
        written = case.as_json()
        assert written["tolerance"] == {"kl": 1e-3, "max_log_error": 0.05}
        assert (written["num_objectives"], written["passed"]) == (3, False)
        assert replace(case, kl=0.0, max_log_error=0.05).passed


def test_a_world_that_is_there_is_left_alone(tmp_path: Path) -> None:
    write_world(tmp_path / "world")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")}
    write_world(tmp_path / "world")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")} == stamps
