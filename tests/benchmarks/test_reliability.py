"""The scoreboard's own arithmetic: what is killed when, what counts as lost, and what the page says of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.reliability.base import POINTS, SAVE_STEPS, STEPS, Run
from benchmarks.reliability.damage import OF_A_FILE, spoil
from benchmarks.reliability.disturbed import Disturbed, resumptions
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.kill_plan import CELLS, OF_POINTS, WORKERS, Kill, Phase, Victim, plan_kills
from benchmarks.reliability.moments import reached
from benchmarks.reliability.page import BEGIN, END, PAGE, RESULT, with_figures


def logged(folder: Path, steps: list[int], *, cut_short: str = "") -> Run:
    """A run whose only point has logged these steps."""
    run = Run(folder)
    run.point("a").mkdir(parents=True)
    (run.path / "run.json").write_text(json.dumps({"vertices": ["a"], "trials": ["a"]}), encoding="utf-8")
    rows = "".join(json.dumps({"step": step, "loss": step / 8}) + "\n" for step in steps)
    (run.point("a") / "metrics.jsonl").write_text(rows + cut_short, encoding="utf-8")
    return run


class TestPlan:
    def test_sixty_kills_are_every_pair_once(self) -> None:
        kills = [kill for sweep in plan_kills(60, seed=3, sweeps=6) for kill in sweep]
        pairs = {(victim, phase) for victim, phases in CELLS.items() for phase in phases}
        assert len(pairs) == 60
        assert Counter((kill.victim, kill.phase) for kill in kills) == Counter(pairs)

    def test_few_kills_have_as_many_victims(self) -> None:
        (sweep,) = plan_kills(6, seed=3, sweeps=1)
        assert len({kill.victim for kill in sweep}) == 6

    def test_the_seed_fixes_every_kill(self) -> None:
        assert plan_kills(60, seed=3, sweeps=6) == plan_kills(60, seed=3, sweeps=6)
        assert plan_kills(60, seed=3, sweeps=6) != plan_kills(60, seed=4, sweeps=6)

    @pytest.mark.parametrize("seed", range(5))
    def test_no_point_of_a_sweep_is_hit_more_often_than_it_may_lose_its_workers(self, seed: int) -> None:
        for sweep in plan_kills(60, seed=seed, sweeps=6):
            hits = Counter(kill.point for kill in sweep if kill.phase in OF_POINTS)
            assert max(hits.values()) <= 3
            assert set(hits) <= set(range(POINTS))

    def test_steps_leave_room_for_what_is_waited_for(self) -> None:
        for sweep in plan_kills(300, seed=0, sweeps=30):
            for kill in sweep:
                assert 1 <= kill.step < STEPS
                assert kill.phase is not Phase.STEP or kill.step % SAVE_STEPS

    def test_only_workers_die_of_other_signals(self) -> None:
        kills = [kill for sweep in plan_kills(60, seed=3, sweeps=6) for kill in sweep]
        assert {kill.signal for kill in kills if kill.victim not in WORKERS} == {"SIGKILL"}
        assert {kill.signal for kill in kills if kill.victim in WORKERS} >= {"SIGKILL", "SIGSEGV", "SIGTERM"}


class TestMoments:
    """Read off the files that a run has at that moment."""

    def kill(self, phase: Phase, *, step: int) -> Kill:
        return Kill(0, Victim.RANK_0, phase, step=step)

    def test_a_step_is_between_two_rows_that_save_nothing(self, tmp_path: Path) -> None:
        assert reached(self.kill(Phase.STEP, step=7), logged(tmp_path / "early", [5, 6])) is None
        assert reached(self.kill(Phase.STEP, step=7), logged(tmp_path / "there", [5, 6, 7])) is not None
        assert reached(self.kill(Phase.STEP, step=7), logged(tmp_path / "saves", [8, 9, 10])) is None

    def test_a_save_has_its_folder_aside(self, tmp_path: Path) -> None:
        run = logged(tmp_path, [9, 10])
        assert reached(self.kill(Phase.SAVE, step=10), run) is None
        (run.point("a") / "checkpoints" / ".step_000010.aside").mkdir(parents=True)
        assert reached(self.kill(Phase.SAVE, step=10), run) is not None
        assert reached(self.kill(Phase.SAVE, step=15), run) is None

    def test_what_is_left_of_an_earlier_save_is_none(self, tmp_path: Path) -> None:
        run = logged(tmp_path, [9, 10, 6, 7])
        (run.point("a") / "checkpoints" / ".step_000010.aside").mkdir(parents=True)
        assert reached(self.kill(Phase.SAVE, step=5), run) is None


class TestCounting:
    def test_lost_steps_are_those_that_are_logged_again(self, tmp_path: Path) -> None:
        run = logged(tmp_path, [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 6, 7], cut_short='{"step": 8, "lo')
        assert resumptions(run, "a") == [2, 3]
        assert Disturbed(run, [], [], 1).lost_steps() == 3

    def test_a_loss_after_a_checkpoint_costs_nothing(self, tmp_path: Path) -> None:
        assert resumptions(logged(tmp_path, [4, 5, 6]), "a") == []

    def test_steps_that_are_missing_or_other_are_counted_once_each(self, tmp_path: Path) -> None:
        steps = list(range(1, STEPS + 1))
        whole, run = logged(tmp_path / "whole", steps), logged(tmp_path / "run", [*steps[:20], 19, *steps[20:-1]])
        assert Disturbed(run, [], [], 1).differing_steps(whole) == 1
        metrics = run.point("a") / "metrics.jsonl"
        metrics.write_text(metrics.read_text(encoding="utf-8") + '{"step": 7, "loss": 0.5}\n', encoding="utf-8")
        assert Disturbed(run, [], [], 1).differing_steps(whole) == 2

    def test_a_figure_that_is_no_number_passes_no_bar(self) -> None:
        assert not Figure(math.nan, 5, "at most").passed
        assert not Figure(math.nan, 5, "at least").passed
        assert Figure(5, 5, "at most").passed and Figure(5, 5, "at least").passed


RESULTS = {
    "machine": {"system": "Linux x86_64", "cores": 2, "load_average": 1.5},
    "commit": "abc",
    "measured_at": "2026-11-30T12:00:00+00:00",
    "seconds": 3000,
    "seed": 6,
    "broken": {"winners": "OSError: no head"},
    "figures": {"kept": Figure(3, 3, "at least").as_dict(), "lost": Figure(6, 5, "at most").as_dict()},
}


class TestPage:
    def test_every_figure_says_how_it_stands_to_its_bar(self) -> None:
        page = with_figures(f"before\n{BEGIN}old\n{END}after\n", RESULTS)
        assert page.startswith(f"before\n{BEGIN}") and page.endswith(f"{END}after\n") and "old" not in page
        assert "| kept | 3 | ≥ 3 | met |\n" in page
        assert "| lost | 6 | ≤ 5 | **missed** |\n" in page
        assert "| all of winners | | | **not measured** |\n" in page

    def test_the_page_says_what_was_measured(self) -> None:
        if not RESULT.is_file():
            pytest.skip("nothing has been measured yet: make reliability")
        page = PAGE.read_text(encoding="utf-8")
        assert with_figures(page, json.loads(RESULT.read_text(encoding="utf-8"))) == page, f"out of date: {BEGIN}"


@pytest.mark.parametrize("name", OF_A_FILE)
def test_every_damage_changes_the_file(name: str, tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    content = bytes(range(1, 256)) * 100
    path.write_bytes(content)
    other.write_bytes(content[::-1])
    spoil(path, other, OF_A_FILE[name])
    assert not path.exists() or path.read_bytes() != content


def test_a_damage_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    for name in ("file", "other"):
        (tmp_path / name).write_bytes(b"same")
    with pytest.raises(ValueError, match="as it was"):
        spoil(tmp_path / "file", tmp_path / "other", OF_A_FILE["another's"])
