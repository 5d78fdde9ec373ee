"""Writes what was measured into docs/exactness.md: `make exactness` measures and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.acceptance.criteria import CRITERIA
from tests.acceptance.plugin import Measurement

MEASURED = Path(__file__).parent / "measured.json"
PAGE = Path(__file__).parent.parent.parent / "docs" / "exactness.md"
BEGIN, END = "<!-- make exactness -->\n", "<!-- end of what it writes -->\n"


def main() -> None:
    PAGE.write_text(with_measurements(PAGE.read_text(encoding="utf-8"), stored()), encoding="utf-8")


def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return content


def measurements(content: dict[str, Any]) -> list[Measurement]:
    return [Measurement(**fields) for fields in content["measurements"]]


def with_measurements(page: str, content: dict[str, Any]) -> str:
    """The page with the part between the two comments written anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{''.join(_lines(content))}\n{END}{after}"


def _lines(content: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    yield f"Measured with {versions}; of several cases the worst.\n\n"
    yield "| | what is measured | worst | cases | bound | test |\n| --- | --- | --- | --- | --- | --- |\n"
    found = measurements(content)
    for criterion, statement in CRITERIA.items():
        yield f"| **{criterion}** | **{_cell(statement)}** | | | | |\n"
        for measured in (m for m in found if m.criterion == criterion):
            yield _row(measured)


def _row(measured: Measurement) -> str:
    bound = f"≤ {measured.at_most:g}" if measured.at_most is not None else f"≥ {measured.at_least:g}"
    test = measured.test.removeprefix("tests/")
    return f"| | {_cell(measured.quantity)} | {measured.value:.3g} | {measured.cases} | {bound} | `{test}` |\n"


def _cell(text: str) -> str:
    """Absolute values and divergences have bars, which would end a cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
