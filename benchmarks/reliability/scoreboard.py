"""The scoreboard: every figure with its bar, printed as one table and written as JSON."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import RESULTS, commit, machine, write_results
from benchmarks.reliability.figures import MEASURES, Figure, Measured, Options, bar
from modpo.telemetry import quiet_libraries

KILLS = 60
SEED = 6


def main(arguments: list[str] | None = None) -> int:
    """Prints one table and writes the results; returns 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--only", choices=list(MEASURES), action="append", help="this part alone; may be given again")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many processes are killed")
    parser.add_argument("--seed", type=int, default=SEED, help="fixes which, and when")
    parser.add_argument("--results", type=Path, default=RESULTS / "reliability.json", help="where figures are written")
    parser.add_argument(
        "--keep",
        type=Path,
        help="a folder for all runs, which are otherwise deleted; undisturbed ones that it has are not run again",
    )
    given = parser.parse_args(arguments)
    console = Console()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="modpo-reliability-"))
    started = time.monotonic()

    say = Clock(started)
    measured: dict[str, Measured] = {}
    broken: dict[str, str] = {}
    try:
        for name in given.only or MEASURES:
            say(name)
            try:
                options = Options(given.kills, given.seed, folder / name, folder / "undisturbed", say)
                measured[name] = in_a_process(name, options)
            except Exception as error:  # noqa: BLE001 - an hour's other parts are not to be lost with it
                broken[name] = f"{type(error).__name__}: {error}"
                say(f"{name} could not be measured: {broken[name]}")
            seconds = time.monotonic() - started
            results = as_results(measured, broken, kills=given.kills, seed=given.seed, seconds=seconds)
            write_results(given.results, results)
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    console.print(table(results))
    return 0 if not broken and all(figure["passed"] for figure in results["figures"].values()) else 1


@dataclass(frozen=True)
class Clock:
    """Says how a measurement goes, with the time since all of it began; any process may have it."""

    started: float

    def __call__(self, line: str) -> None:
        seconds = int(time.monotonic() - self.started)
        Console().print(f"{seconds // 60:3d}:{seconds % 60:02d}  {line}", highlight=False, markup=False)


def in_a_process(name: str, options: Options) -> Measured:
    """One part of the scoreboard, in a process that no other part has left anything in."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, name, options).result()


def measure(name: str, options: Options) -> Measured:
    """One part of the scoreboard."""
    quiet_libraries()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: Measured = import_module(MEASURES[name]).measure(options)
    return found


def as_results(
    measured: Mapping[str, Measured], broken: Mapping[str, str], *, kills: int, seed: int, seconds: float
) -> dict[str, Any]:
    """What is written: the figures of all parts by name, and where, when and on what they were measured.

    Args:
        broken: why a part could not be measured.
    """
    figures: dict[str, Figure] = {}
    for found in measured.values():
        figures |= found.figures
    return {
        "figures": {name: figure.as_dict() for name, figure in figures.items()},
        "machine": machine(),
        "commit": commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds),
        "kills": kills,
        "seed": seed,
        "broken": dict(broken),
        "rows": {name: found.rows for name, found in measured.items()},
    }


def table(results: Mapping[str, Any]) -> Table:
    drawn = Table("figure", "value", "bar", "")
    for name, figure in results["figures"].items():
        drawn.add_row(name, f"{figure['value']:g}", bar(figure), "met" if figure["passed"] else "MISSED")
    for name in results["broken"]:
        drawn.add_row(f"all of {name}", "", "", "NOT MEASURED")
    return drawn
