"""What all benchmarks measure with: machine and commit, processes with their memory, ratios, tables, result files."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SAMPLE_S = 1.0
MB = 1e6


@dataclass(frozen=True)
class Ratio:
    """How many times as much one way takes as the other, over rounds in which both ran in turn.

    Attributes:
        bar: the least that the median should be; None where nothing is asked.
    """

    median: float
    low: float
    high: float
    bar: float | None = None

    @property
    def meets_bar(self) -> bool:
        return self.bar is None or self.median >= self.bar


def ratio(ours: Sequence[float], others: Sequence[float], *, bar: float | None = None) -> Ratio:
    """Theirs over ours, round by round: more than one is better.

    Raises:
        ValueError: the rounds do not match.
    """
    values = [other / own for own, other in zip(ours, others, strict=True)]
    median, low, high = statistics.median(values), min(values), max(values)
    return Ratio(round(median, 3), round(low, 3), round(high, 3), bar)


def write_results(path: Path, results: dict[str, Any], ratios: dict[str, Ratio] | None = None) -> None:
    """Machine, commit and rows as JSON, and the ratios by name."""
    found = {"ratios": {name: asdict(each) for name, each in ratios.items()}} if ratios else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results | found, indent=1) + "\n", encoding="utf-8")


def measure(command: list[str]) -> dict[str, Any]:
    """Runs a command: seconds, processor seconds, and the highest memory of it and all its children together."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, env=environment)
        while process.poll() is None:
            peak = max(peak, sum(map(memory_of, tree(process.pid))))
            time.sleep(SAMPLE_S)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        text = output.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(peak / MB),
        "output": text,
    }


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def memory_of(process: int) -> int:
    """Proportional set size in bytes: shared pages count in part. Nothing of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def machine() -> dict[str, Any]:
    """Cores that this process may use, memory, and how busy others keep the cores."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "load_average": round(os.getloadavg()[1], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str:
    """Of the code that was measured, with a sign that it was changed since; what benchmarks write is no change."""
    described = _git("describe", "--always", "--abbrev=12", "--exclude=*").stdout.strip()
    if not described:
        return "unknown"
    changed = _git("diff", "--quiet", "HEAD", "--", ":/", ":(exclude,top)benchmarks/results").returncode != 0
    return f"{described}-dirty" if changed else described


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    cells = [[name.replace("_", " ") for name in names], *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    print(title)
    for line in cells:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def print_ratios(title: str, ratios: dict[str, Ratio]) -> None:
    """Each ratio with its spread; one that has a bar says whether it was met."""
    print_table(
        title,
        [
            {
                "ratio": name,
                "median": f"{found.median:.2f}",
                "low": f"{found.low:.2f}",
                "high": f"{found.high:.2f}",
                "bar": "" if found.bar is None else f"{found.bar:.2f}",
                "": "" if found.bar is None else "met" if found.meets_bar else "MISSED",
            }
            for name, found in ratios.items()
        ],
    )


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
