"""docs/performance.md says what the result files say, and every bar stands there, met or missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.published import stored_results, with_figures


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "performance.md").read_text(encoding="utf-8")


def test_the_figures_are_the_stored_ones(page: str) -> None:
    assert with_figures(page, stored_results()) == page, "out of date: python -m benchmarks.published"


def test_every_ratio_with_a_bar_says_how_it_stands_to_it(page: str) -> None:
    barred = [(name, r) for found in stored_results().values() for name, r in found["ratios"].items() if r["bar"]]
    assert barred
    for name, ratio in barred:
        verdict = "met" if ratio["median"] >= ratio["bar"] else "**missed**"
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert line.endswith(f"| {ratio['bar']:.2f} | {verdict} |")
