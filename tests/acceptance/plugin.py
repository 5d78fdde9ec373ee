"""The fixture `accept`: it holds a measured value against its bound, and remembers both for docs/exactness.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.acceptance.criteria import CRITERIA

PACKAGES = ("torch", "ray", "deepspeed", "transformers", "peft", "trl")


@dataclass(frozen=True)
class Measurement:
    """One quantity of one criterion; of several cases the one that is nearest to its bound."""

    criterion: str
    quantity: str
    test: str
    value: float
    at_most: float | None
    at_least: float | None
    cases: int = 1

    @property
    def holds(self) -> bool:
        if not math.isfinite(self.value):
            return False
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def worse(self, other: Measurement) -> Measurement:
        pick = max if self.at_most is not None else min
        return replace(pick(self, other, key=lambda measured: measured.value), cases=self.cases + other.cases)


Accept = Callable[..., None]
Measurements = dict[tuple[str, str, str], Measurement]
MEASURED = pytest.StashKey[Measurements]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--acceptance",
        metavar="FILE",
        type=Path,
        help="run the tests of acceptance criteria alone and write what they measured to FILE",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("acceptance") is None:
        return
    chosen = [item for item in items if "accept" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture
def accept(request: pytest.FixtureRequest) -> Accept:
    """Holds `accept(criterion, quantity, value, at_most=bound)`, or `at_least`; fails where the bound is broken."""
    return holder(request.config.stash[MEASURED], request.node.nodeid.split("[")[0])


def holder(measured: Measurements, test: str) -> Accept:
    """What the fixture gives a test: it remembers the worst of each quantity in `measured`."""

    def hold(
        criterion: str, quantity: str, value: float, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        assert criterion in CRITERIA, f"{criterion} is no acceptance criterion"
        assert (at_most is None) != (at_least is None), "one bound, from above or from below"
        found = Measurement(criterion, quantity, test, float(value), at_most, at_least)
        key = (criterion, quantity, test)
        measured[key] = measured[key].worse(found) if key in measured else found
        bound = f"at most {at_most}" if at_least is None else f"at least {at_least}"
        assert found.holds, f"{criterion}: {quantity} is {value}, and may be {bound}"

    return hold


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("acceptance")
    if path is None:
        return
    found = sorted(session.config.stash[MEASURED].values(), key=lambda m: (m.criterion, m.test, m.quantity))
    content = {
        "versions": {name: version(name) for name in PACKAGES},
        "measurements": [asdict(measurement) for measurement in found],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
