"""What stands beside the front so that its values are not believed blindly: the start model, collapse, warnings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modpo.analysis.front import summarise_run
from modpo.analysis.report import render_page
from modpo.artifacts import write_json
from modpo.errors import Problem
from modpo.tables import print_summary
from tests.unit.analysis.ledgers import MadePoint, everywhere, make_config, write_run

WARNING = Problem(
    code="MS-711", what="the sign of 'brief' <b>looks</b> flipped", where="objectives", got="2%", remedy="turn it"
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two points whose responses have 5 tokens and a share of 0.5 distinct word pairs."""
    points = [
        MadePoint(trial_id="long", weights=(1.0, 0.0), values=everywhere(1.0, 0.0)),
        MadePoint(trial_id="short", weights=(0.0, 1.0), values=everywhere(0.0, 1.0)),
    ]
    return write_run(tmp_path, make_config("vivid", "brief"), points)


def write_start(run_dir: Path, *, length: float, distinct_n: float, value: float = 0.25) -> None:
    objectives = {name: {"value": value, "low": value - 0.05, "high": value + 0.05} for name in ("vivid", "brief")}
    start = {"objectives": objectives, "length": length, "distinct_n": distinct_n, "truncated": 0.125}
    write_json(run_dir / "artifacts" / "start_evaluation-00ff" / "summary.json", start)


def write_meaning(run_dir: Path) -> None:
    reward = {
        "unit": 2.0,
        "accuracy": {"value": 0.75, "low": 0.7, "high": 0.8},
        "drawn_accuracy": 0.6875,
        "deterministic": 0.0625,
        "spread_over_beta": 4.5,
        "conflict": {},
    }
    rewards = {"vivid": reward | {"conflict": {"brief": 0.375}}, "brief": reward | {"accuracy": None}}
    meaning = {"rewards": rewards, "warnings": [asdict(WARNING)]}
    write_json(run_dir / "artifacts" / "rewards-00ff" / "meaning.json", meaning)


def collapsed(run_dir: Path) -> list[str | None]:
    return [point["collapsed"] for point in summarise_run(run_dir)["points"]]


def test_nothing_is_said_before_the_start_model_is_measured(run_dir: Path) -> None:
    summary = summarise_run(run_dir)
    assert (summary["start"], summary["meaning"]) == (None, None)
    assert collapsed(run_dir) == [None, None]
    render_page(summary)


@pytest.mark.parametrize(
    ("length", "distinct_n", "expected"),
    [
        (20.0, 1.0, None),
        (20.1, 1.0, "responses of 5.0 tokens, 20.1 in the start model"),
        (20.0, 1.01, "distinct word pairs 0.50, 1.01 in the start model"),
    ],
)
def test_collapse_is_a_quarter_of_the_length_or_half_of_the_words(
    run_dir: Path, length: float, distinct_n: float, expected: str | None
) -> None:
    write_start(run_dir, length=length, distinct_n=distinct_n)
    assert collapsed(run_dir) == [expected, expected]


def test_a_point_below_the_start_model_has_overshot(run_dir: Path) -> None:
    """J_w = 1 - 0.1 * 2 = 0.8 for both, up to 0.9 in its interval; the start model has w.E[r] = 0.25, later 0.95."""
    write_start(run_dir, length=5.0, distinct_n=0.5)
    assert [point["overshot"] for point in summarise_run(run_dir)["points"]] == [None, None]
    write_start(run_dir, length=5.0, distinct_n=0.5, value=0.95)
    summary = summarise_run(run_dir)
    expected = "J_w 0.8, 0.95 in the start model, KL 2 nats"
    assert [point["overshot"] for point in summary["points"]] == [expected, expected]
    assert "2 of the points are worse than the start model by what training maximises" in render_page(summary)
    assert f"short is worse than the start model: {expected}" in printed_summary(summary, run_dir)


def test_page_and_terminal_flag_a_collapse(run_dir: Path) -> None:
    write_start(run_dir, length=100.0, distinct_n=0.5)
    summary = summarise_run(run_dir)
    page = render_page(summary)
    assert page.count('<b class="bad" title="responses of 5.0 tokens, 100.0 in the start model">collapsed</b>') == 2
    assert "2 of the points have collapsed, whatever the objective values say" in page
    assert "start model" in page and "12.5 %" in page
    printed = printed_summary(summary, run_dir)
    assert "short has collapsed, whatever its values say: responses of 5.0 tokens" in printed
    assert "dominated" not in printed


def test_page_shows_what_the_rewards_say_and_every_warning(run_dir: Path) -> None:
    write_meaning(run_dir)
    page = render_page(summarise_run(run_dir))
    assert "<code>MS-711</code> the sign of &#39;brief&#39; &lt;b&gt;looks&lt;/b&gt; flipped: 2%." in page
    for figure in ("0.750 <small>0.700 … 0.800</small>", "0.688", "0.062", "4.500", "0.375"):
        assert figure in page


def test_damaged_facts_are_named(run_dir: Path) -> None:
    path = run_dir / "artifacts" / "rewards-00ff" / "meaning.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(Exception, match=r"MS-302.*\n.*meaning\.json"):
        summarise_run(run_dir)


def printed_summary(summary: dict[str, Any], run_dir: Path) -> str:
    console = Console(width=200, record=True, file=(run_dir / "printed.txt").open("w"))
    print_summary(console, summary, run_dir)
    console.file.close()
    return console.export_text()


def test_terminal_marks_values_that_a_model_gives_itself(run_dir: Path) -> None:
    summary = summarise_run(run_dir)
    summary["objectives"][1]["self_scored"] = True
    printed = printed_summary(summary, run_dir)
    assert "brief (self-scored)" in printed and "vivid (self-scored)" not in printed
