"""Tables on a terminal: nothing of a sweep over many objectives is cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from modpo.analysis.front import read_manifest, summarise_run
from modpo.orchestration.overview import overview
from modpo.tables import print_overview, print_status, print_summary
from tests.sweeps import VIVID, raw_sweep, world_sweep
from tests.unit.analysis.ledgers import MadePoint, everywhere, make_config, write_run

WIDTH = 160
"""That of `modpo` into a file or pipe."""
NAMES = ("coverage", "relevance", "correctness", "structure", "fluency")


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with (tmp_path / "printed.txt").open("w") as file:
        yield Console(width=WIDTH, record=True, file=file)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("│")]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_weight_value_and_interval_of_a_front_is_shown(console: Console, tmp_path: Path, count: int) -> None:
    weights, values = (0.11, 0.13, 0.17, 0.19, 0.4)[:count], (-1.25, 1.25, 2.25, 3.25, 4.25)[:count]
    weights = (*weights[:-1], 1 - sum(weights[:-1]))
    point = MadePoint(trial_id="p", weights=weights, values=everywhere(*values))
    summary = summarise_run(write_run(tmp_path / "run", make_config(*NAMES[:count]), [point]))
    for objective in summary["objectives"]:
        objective["self_scored"] = True
    print_summary(console, summary, tmp_path)
    text = console.export_text()
    assert "…" not in text and text.count("(self-scored)") == count
    for name, weight, value in zip(NAMES, weights, values, strict=False):
        assert name in text and f"{weight:.2f}" in text
        assert re.search(rf"{value:.2f}\b", text) and f"[{value - 0.1:.2f}, {value + 0.1:.2f}]" in text


def test_from_three_objectives_on_each_weight_stands_above_its_value(console: Console, tmp_path: Path) -> None:
    point = MadePoint(trial_id="p", weights=(0.2, 0.3, 0.5), values=everywhere(1.0, 2.0, 3.0), kl=4.0)
    failed = MadePoint(trial_id="q", weights=(0.0, 0.0, 1.0), status="failed", error="lost")
    print_summary(console, summarise_run(write_run(tmp_path, make_config(*NAMES[:3]), [point, failed])), tmp_path)
    lines = console.export_text().splitlines()
    first = next(number for number, line in enumerate(lines) if "w 0.20" in line)
    assert cells(lines[first])[:3] == ["w 0.20", "w 0.30", "w 0.50"]
    assert cells(lines[first + 1])[:4] == ["1.00", "2.00", "3.00", "4.00"]
    assert cells(lines[first + 2])[:4] == ["[0.90, 1.10]", "[1.90, 2.10]", "[2.90, 3.10]", "[3.90, 4.10]"]
    (line,) = [line for line in lines if "failed" in line]
    assert cells(line)[:4] == ["w 0.00", "w 0.00", "w 1.00", "failed"]


def test_a_plan_folds_long_names_of_trials_and_cuts_nothing(console: Console, demo_world: Path) -> None:
    raw = raw_sweep(sweep={"weights": {"lattice": 1}})
    (first, _), reward = raw["objectives"], {"type": "function", "function": VIVID}
    objectives = [first | {"name": name, "reward": reward} for name in NAMES]
    config = world_sweep(demo_world, objectives=objectives, sweep=raw["sweep"])
    found = overview(config)
    print_overview(console, config, found)
    text = console.export_text()
    assert "…" not in text and len(found.plan.trials) == len(NAMES)
    folded = "".join(cells(line)[0] for line in text.splitlines() if "│" in line)
    assert all(trial.trial_id in folded for trial in found.plan.trials)


def test_somebodys_text_is_neither_markup_nor_a_command_to_the_terminal(console: Console, tmp_path: Path) -> None:
    """An unknown tag, such as `[/x]`, would be an error of the table's own."""
    error = "[/x] [red]loud[/red] \x1b[31mred\x1b[0m \u202egnp.exe \r\n"
    point = MadePoint(trial_id="p", weights=(0.5, 0.5), status="failed", error=error)
    run_dir = write_run(tmp_path, make_config("vivid", "brief"), [point])
    print_status(console, run_dir, read_manifest(run_dir))
    text = console.export_text()
    assert r"[/x] [red]loud[/red] \x1b[31mred\x1b[0m \u202egnp.exe" in text
    assert "\x1b" not in text.replace(r"\x1b", "")
