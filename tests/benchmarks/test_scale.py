"""The scale benchmark: its sweeps by hand, its figures from a seed, and its costs from code that really runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks.scale_costs import Sizes, fitted, measured_costs
from benchmarks.scale_ways import (
    OURS,
    OURS_NO_REUSE,
    OURS_UNDISTURBED,
    SHELL,
    SHELL_CHECKPOINTS,
    Scenario,
    one_after_another,
    schedules,
)

# Five points on two slots: 0 and 1 at the ends are the vertices, trained before the others.
QUIET = Scenario(
    trials=5, nodes=2, devices_per_node=1, workers=1, epochs=3, training=60, evaluation=4, scoring_share=0.5,
    start_up=2, load=1, loss_every=0,
)  # fmt: skip
SCORING = 10.0  # half of an epoch of 20 minutes


class TestSweepsByHand:
    def test_ours(self) -> None:
        """Start-up 2; reference 1 + 10/2; vertices 1 + 60; two margins 1 + 20/2; start model 1 + 4.

        Then an end of the front (1 + 4) and two points (65 each) beside one point and the other end: 65 + 65.
        """
        found = schedules(QUIET, seed=0)[OURS]
        assert found.makespan == pytest.approx(2 + 6 + 61 + 11 + 5 + 130)
        assert found.useful == pytest.approx(3 * SCORING + 5 * 60 + 4 + 5 * 4)
        # Two start-ups; a load for two shards twice, two vertices, the start model and five points.
        assert found.starting == pytest.approx(2 * 2 + (4 + 2 + 1 + 5) * 1)
        assert (found.lost, found.num_losses, found.held) == (0, 0, pytest.approx(2 * found.makespan))

    def test_a_worker_group_for_each_piece_of_work(self) -> None:
        """The same, with a start-up for each of the twelve pieces: five stages, and one more for the second point."""
        found = schedules(QUIET, seed=0)[OURS_NO_REUSE]
        assert found.starting == pytest.approx(12 * (2 + 1))
        assert found.makespan == pytest.approx(6 + 61 + 11 + 5 + 130 + 6 * 2)

    def test_shell_loops(self) -> None:
        """Lists of points 0, 2, 4 and 1, 3. A vertex scores its reference, a point that and a margin, for itself."""
        found = schedules(QUIET, seed=0)
        vertex, point = 2 + 1 + SCORING + 60, 2 + 1 + 2 * SCORING + 60 + 4
        assert found[SHELL].makespan == pytest.approx(vertex + 2 * point)
        assert found[SHELL].starting == pytest.approx(2 * (3 + SCORING) + 3 * (3 + 2 * SCORING) + 2 * 3)
        assert found[SHELL_CHECKPOINTS] == found[SHELL]
        assert one_after_another(QUIET) == pytest.approx(2 * vertex + 3 * point + 2 * (2 + 1 + 4))


class TestLosses:
    SCENARIO = Scenario(trials=40, nodes=6, devices_per_node=4, workers=2, loss_every=120)

    def test_cost_time_and_no_result(self) -> None:
        found = schedules(self.SCENARIO, seed=3)
        assert found[OURS].num_losses > 0 and found[OURS].num_failed == 0
        assert found[OURS].useful == pytest.approx(found[OURS_UNDISTURBED].useful)
        assert found[OURS].makespan >= found[OURS_UNDISTURBED].makespan
        assert found[OURS].starting > found[OURS_UNDISTURBED].starting
        assert found[SHELL].lost > found[SHELL_CHECKPOINTS].lost > 0

    def test_a_longer_checkpoint_interval_loses_more(self) -> None:
        rare = Scenario(**{**vars(self.SCENARIO), "checkpoint_every": 30})
        assert schedules(rare, seed=3)[OURS].lost > schedules(self.SCENARIO, seed=3)[OURS].lost

    def test_a_seed_fixes_everything(self) -> None:
        assert schedules(self.SCENARIO, seed=3) == schedules(self.SCENARIO, seed=3)
        assert schedules(self.SCENARIO, seed=3) != schedules(self.SCENARIO, seed=4)


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "scale.json"
    flags = ["--only-schedule", "--trials", "20", "--nodes", "4", "--loss-every", "200", "--schedules", "3"]
    monkeypatch.setattr(sys, "argv", ["scale", *flags, "--results", str(results)])
    scale.main()
    written: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    assert written["schedule"]["scenario"]["trials"] == 20
    assert written["schedule"]["rows"][0]["way"] == OURS
    assert set(written["ratios"]["makespan, shell loops"]) == {"median", "low", "high", "bar"}
    printed = capsys.readouterr().out
    assert all(f"{row['makespan_h']:,}" in printed for row in written["schedule"]["rows"])


def test_a_line_through_points_by_hand() -> None:
    """Half a second and 20 microseconds a token; then one point a tenth above its line."""
    rows = [{"tokens": tokens, "cost": 0.5 + 20e-6 * tokens} for tokens in (1000, 2000, 4000)]
    assert fitted(rows, "cost") == pytest.approx((0.5, 20.0, 0.0), abs=1e-9)
    bent = [*rows, {"tokens": 1e12, "cost": 20e6}, {"tokens": 3000, "cost": 1.1 * 0.56}]
    assert fitted(bent, "cost")[2] > 0.05


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_costs_come_from_runs_that_go_to_their_end(tmp_path: Path, one_worker: None) -> None:
    sizes = Sizes(64, 1, 64, (8, 16), (8, 16), (2, 3), (1, 2), points=2, rounds=1)
    rows = measured_costs(tmp_path, sizes)
    assert {name: len(table) for name, table in rows.items()} == {
        "pairs": 2, "length": 2, "objectives": 2, "workers": 2, "points": 2,
    }  # fmt: skip
    assert [row["tokens"] for row in rows["pairs"]] == [8 * 48, 16 * 48]
    assert all(row["annotation_s"] > 0 and row["point_s"] > 0 for row in rows["pairs"])
    percents = [row["annotation_percent"] for row in rows["points"]]
    assert 0 < percents[1] < percents[0] < 100
