"""What a sweep costs as it grows: `python -m benchmarks.scale`.

First the real code on small sizes, in processor seconds of one thread: annotation and points against pairs, length,
objectives, workers and points. Then a simulated sweep on machines that are lost and replaced: how long it takes, what
the losses cost, and what the same points cost with a worker group for each and as shell loops over the weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import (
    RESULTS,
    Ratio,
    commit,
    machine,
    print_ratios,
    print_table,
    ratio,
    write_results,
)
from benchmarks.scale_costs import FULL, QUICK, Row, fitted, measured_costs
from benchmarks.scale_ways import OURS, OURS_NO_REUSE, SHELL, SHELL_CHECKPOINTS, Scenario, one_after_another, schedules
from benchmarks.schedule import Schedule
from modpo.telemetry import quiet_libraries
from modpo.training.process_group import process_group

KEYS = {"pairs": "pairs", "length": "tokens", "objectives": "objectives", "workers": "workers", "points": "points"}
LINEAR_BAR = 0.9
MINUTES = 60


def main() -> None:
    """Prints a table for each thing that grows, one for the schedules, and writes the results."""
    arguments = _arguments()
    scenario = Scenario(**{field.name: getattr(arguments, field.name) for field in fields(Scenario)})
    found: dict[str, Any] = {"machine": machine(), "commit": commit()}
    found["measured_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    ratios: dict[str, Ratio] = {}
    if not arguments.only_schedule:
        rows = _measure(quick=arguments.quick)
        found |= {"costs": {name: _medians(table, KEYS[name]) for name, table in rows.items()}}
        found["constants"] = _constants(rows)
        ratios |= _cost_ratios(rows)
        for name, table in found["costs"].items():
            print_table(f"cost against {name}, CPU seconds", table)
        print_table("fitted over pairs and lengths", found["constants"])
    ways = [schedules(scenario, arguments.seed + number) for number in range(arguments.schedules)]
    found["schedule"] = {"scenario": asdict(scenario), "seed": arguments.seed, "rows": _schedule_rows(ways)}
    ratios |= _schedule_ratios(ways)
    print_table(_title(scenario, len(ways)), found["schedule"]["rows"])
    print(f"  one shell loop on {scenario.workers} devices: {one_after_another(scenario) / MINUTES:,.0f} hours")
    print_ratios("ratios", ratios)
    write_results(arguments.results, found, ratios)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small models and few pairs")
    parser.add_argument("--only-schedule", action="store_true", help="simulate alone: no model is run")
    parser.add_argument("--schedules", type=int, default=10, help="simulated sweeps, each with losses of its own")
    parser.add_argument("--seed", type=int, default=0, help="of the first simulated sweep's losses")
    parser.add_argument("--results", type=Path, default=RESULTS / "scale.json", help="where the figures are written")
    group = parser.add_argument_group("simulated sweep", "times in minutes")
    for field in fields(Scenario):
        kind: Any = type(field.default)
        group.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, metavar=kind.__name__)
    return parser.parse_args()


def _measure(*, quick: bool) -> dict[str, list[Row]]:
    quiet_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="modpo-benchmark-") as folder, process_group():
        return measured_costs(Path(folder), QUICK if quick else FULL)


def _medians(rows: Sequence[Row], key: str) -> list[Row]:
    """One line a size, each figure the median of the rounds."""
    sizes = dict.fromkeys(row[key] for row in rows)
    groups = [[row for row in rows if row[key] == size] for size in sizes]
    names = [name for name in rows[0] if name != "round"]
    return [{name: round(median(row[name] for row in group), 3) for name in names} for group in groups]


def _constants(rows: dict[str, list[Row]]) -> list[Row]:
    lines = []
    for cost in ("annotation_s", "point_s"):
        table = [row for name in ("pairs", "length") for row in _medians(rows[name], KEYS[name])]
        seconds, microseconds, error = fitted(table, cost)
        lines.append(
            {
                "cost": cost,
                "fixed_s": round(seconds, 3),
                "microseconds_a_token": round(microseconds, 2),
                "worst_error_percent": round(100 * error, 1),
            }
        )
    return lines


def _cost_ratios(rows: dict[str, list[Row]]) -> dict[str, Ratio]:
    """A cost that grows faster than what it is for would show here as less than one."""
    sizes = sorted({row["pairs"] for row in rows["pairs"]})
    found = {}
    for cost in ("annotation", "point"):
        fewest, most = (
            [row[f"{cost}_s"] / row["pairs"] for row in rows["pairs"] if row["pairs"] == size]
            for size in (sizes[0], sizes[-1])
        )
        found[f"{cost} a pair, {sizes[0]} pairs over {sizes[-1]}"] = ratio(most, fewest, bar=LINEAR_BAR)
    count = max(row["points"] for row in rows["points"])
    first, last = ([row["point_s"] for row in rows["points"] if row["points"] == number] for number in (1, count))
    found[f"first point over point {count}"] = ratio(last, first, bar=LINEAR_BAR)
    shares = [[row["annotation_percent"] for row in rows["points"] if row["points"] == n] for n in (1, count)]
    found[f"annotation's share, 1 point over {count}"] = ratio(shares[1], shares[0])
    most = max(row["workers"] for row in rows["workers"])
    shared = [row for row in rows["workers"] if row["workers"] == most]
    found[f"mean over slowest of {most} annotators"] = ratio(
        [row["slowest_s"] for row in shared], [row["all_s"] / most for row in shared]
    )
    return found


def _schedule_rows(ways: Sequence[dict[str, Schedule]]) -> list[Row]:
    """Medians over the simulated sweeps, in hours and device-hours."""

    def middle(name: str, of: str) -> float:
        return float(median(getattr(each[name], of) for each in ways))

    return [
        {
            "way": name,
            "makespan_h": round(middle(name, "makespan") / MINUTES, 2),
            "device_h": round(middle(name, "held") / MINUTES),
            "useful": round(middle(name, "useful") / MINUTES),
            "starting": round(middle(name, "starting") / MINUTES),
            "lost": round(middle(name, "lost") / MINUTES, 1),
            "idle": round(middle(name, "idle") / MINUTES),
            "utilisation_percent": round(100 * middle(name, "utilisation"), 1),
            "nodes_lost": round(middle(name, "num_losses")),
            "failed": round(middle(name, "num_failed")),
        }
        for name in ways[0]
    ]


def _schedule_ratios(ways: Sequence[dict[str, Schedule]]) -> dict[str, Ratio]:
    found = {}
    for other in (OURS_NO_REUSE, SHELL_CHECKPOINTS, SHELL):
        for figure, name in (("makespan", "makespan"), ("held", "device hours")):
            ours, theirs = ([getattr(each[way], figure) for each in ways] for way in (OURS, other))
            found[f"{name}, {other}"] = ratio(ours, theirs)
    return found


def _title(scenario: Scenario, count: int) -> str:
    losses = f"a loss every {scenario.loss_every / MINUTES:g} h each" if scenario.loss_every else "no losses"
    return (
        f"{scenario.trials:,} trials on {scenario.nodes} nodes of {scenario.devices_per_node} devices, {losses}; "
        f"medians of {count} simulated sweeps, device-hours"
    )


if __name__ == "__main__":
    main()
