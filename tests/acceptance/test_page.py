"""docs/exactness.md has a measurement of every criterion, and every bound on it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.criteria import CRITERIA
from tests.acceptance.page import PAGE, measurements, stored, with_measurements
from tests.acceptance.plugin import Accept, Measurement, holder


@pytest.fixture(scope="module")
def measured() -> list[Measurement]:
    return measurements(stored())


def test_the_page_says_what_was_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_measurements(page, stored()) == page, "out of date: make exactness"


def test_every_criterion_was_measured(measured: list[Measurement]) -> None:
    assert {m.criterion for m in measured} == set(CRITERIA)


def test_every_bound_is_kept(measured: list[Measurement]) -> None:
    assert [m for m in measured if not m.holds] == []


def test_the_tests_that_are_named_exist(measured: list[Measurement], repository: Path) -> None:
    for test in {m.test for m in measured}:
        path, *names = test.split("::")
        assert f"def {names[-1]}(" in (repository / path).read_text(encoding="utf-8"), test


class TestAccept:
    """Under a criterion's name, but remembered nowhere: these numbers measure nothing."""

    @pytest.fixture
    def forgetful(self) -> Accept:
        return holder({}, "a test")

    @pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
    def test_what_is_too_large_or_no_number_fails(self, forgetful: Accept, value: float) -> None:
        with pytest.raises(AssertionError, match=r"B1: error is .*, and may be at most 0\.5"):
            forgetful("B1", "error", value, at_most=0.5)

    def test_what_is_too_small_fails(self, forgetful: Accept) -> None:
        with pytest.raises(AssertionError, match=r"F2: correlation is 0\.7, and may be at least 0\.8"):
            forgetful("F2", "correlation", 0.7, at_least=0.8)

    def test_a_value_at_its_bound_holds(self, forgetful: Accept) -> None:
        forgetful("B1", "error", 0.5, at_most=0.5)

    def test_an_unknown_criterion_fails(self, forgetful: Accept) -> None:
        with pytest.raises(AssertionError, match="Z9 is no acceptance criterion"):
            forgetful("Z9", "error", 0.0, at_most=0.5)
