"""Six of the kills that `make reliability` has sixty of, by the same code: six victims, six moments, one sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability.figures import Options
from benchmarks.reliability.kill_plan import GIVEN_AGAIN, WORKERS, Victim, plan_kills
from benchmarks.reliability.kills import measure

KILLS, SEED = 6, 7


def test_the_six_have_workers_the_drivers_of_workers_and_what_ends_a_run() -> None:
    ((*kills,),) = plan_kills(KILLS, seed=SEED, sweeps=1)
    victims = {kill.victim for kill in kills}
    assert victims & set(WORKERS) and victims & set(GIVEN_AGAIN) and victims & {Victim.SLOT, Victim.CONTROLLER}


@pytest.mark.ray
@pytest.mark.endurance
def test_six_kills_are_survived_with_the_same_bits(tmp_path: Path) -> None:
    measured = measure(Options(KILLS, SEED, tmp_path / "kills", tmp_path / "undisturbed", print))
    assert len(measured.rows) == KILLS
    assert {name: figure for name, figure in measured.figures.items() if not figure.passed} == {}
