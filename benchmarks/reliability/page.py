"""Measured figures for docs/reliability.md, from the result file: `python -m benchmarks.reliability.page` puts them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS
from benchmarks.reliability.figures import bar

RESULT = RESULTS / "reliability.json"
PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- python -m benchmarks.reliability.page -->\n", "<!-- end of what it writes -->\n"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_figures(page, json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


def with_figures(page: str, results: Mapping[str, Any]) -> str:
    """The page with the part between the two comments written anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{''.join(_lines(results))}\n{END}{after}"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"{machine['system']}, {machine['cores']} cores, load average {machine['load_average']}, "
        f"commit `{results['commit']}`, {results['measured_at'][:10]}, {results['seconds'] // 60} minutes, "
        f"seed {results['seed']}.\n\n"
    )
    yield "| figure | value | bar | |\n| --- | --- | --- | --- |\n"
    for name, figure in results["figures"].items():
        verdict = "met" if figure["passed"] else "**missed**"
        yield f"| {name} | {figure['value']:g} | {bar(figure)} | {verdict} |\n"
    for name in results["broken"]:
        yield f"| all of {name} | | | **not measured** |\n"


if __name__ == "__main__":
    main()
