"""Measured figures for docs/performance.md, from the result files: `python -m benchmarks.published` puts them there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, Ratio

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- python -m benchmarks.published -->\n", "<!-- end of what it writes -->\n"
TITLES = {
    "step": "One step: what others take over what ours takes",
    "sweep": "A whole sweep of N points and E epochs: what the reference takes over what ours takes",
    "scale": "A sweep as it grows: what the small takes for its share over the large, and other ways over ours",
}


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_figures(page, stored_results()), encoding="utf-8")


def stored_results() -> dict[str, Any]:
    """The result files that are there, by name."""
    paths = ((name, RESULTS / f"{name}.json") for name in TITLES)
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths if path.is_file()}


def with_figures(page: str, results: Mapping[str, Any]) -> str:
    """The page with the part between the two comments written anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{''.join(_lines(results))}\n{END}{after}"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    for number, (name, found) in enumerate(results.items()):
        yield "\n" * (number > 0)
        yield f"**{TITLES[name]}** (`benchmarks/results/{name}.json`; {_circumstances(found)})\n\n"
        yield from _table(("", "median", "rounds", "at least", ""), (_ratio_cells(*item) for item in _ratios(found)))
    if profile := results.get("step", {}).get("profile"):
        yield "\n**Where one of our steps spends its time** (h=512, uniform lengths)\n\n"
        cells = ((row["group"], row["share"], row["costliest"]) for row in profile)
        yield from _table(("", "share", "the costliest operations"), cells)
    if schedule := results.get("scale", {}).get("schedule"):
        yield from _schedule(schedule)


def _schedule(schedule: Mapping[str, Any]) -> Iterator[str]:
    scenario, rows = schedule["scenario"], schedule["rows"]
    yield f"\n**{scenario['trials']:,} trials on {scenario['nodes']} nodes that are lost and replaced, simulated**\n\n"
    header = tuple(name.replace("_", " ") for name in rows[0])
    yield from _table(header, (tuple(c if isinstance(c, str) else f"{c:,}" for c in row.values()) for row in rows))


def _ratios(found: Mapping[str, Any]) -> Iterator[tuple[str, Ratio]]:
    return ((name, Ratio(**ratio)) for name, ratio in found["ratios"].items())


def _circumstances(found: Mapping[str, Any]) -> str:
    """Cores, and of each part the commit and how many processes wanted them: one of each, or from one to another."""
    parts = list(found.get("measured", {}).values()) or [_in_one_piece(found)]
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(part["commit"] for part in parts))
    loads = sorted(part["load_average"] for part in parts)
    machine = found["machine"]
    return (
        f"{machine['system']}, {machine['cores']} cores, load average {loads[0]} to {loads[-1]}, commit {commits}, "
        f"{max(part['at'] for part in parts)[:10]}"
    )


def _in_one_piece(found: Mapping[str, Any]) -> dict[str, Any]:
    machine = found["machine"]
    return {"commit": found["commit"], "at": found["measured_at"], "load_average": machine["load_average"]}


def _ratio_cells(name: str, ratio: Ratio) -> tuple[str, ...]:
    spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
    if ratio.bar is None:
        return name, f"{ratio.median:.2f}", spread, "", ""
    return name, f"{ratio.median:.2f}", spread, f"{ratio.bar:.2f}", "met" if ratio.meets_bar else "**missed**"


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
