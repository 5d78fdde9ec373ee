"""A run that goes on with other versions of what computes says so, and keeps both."""

from __future__ import annotations

import pytest

from modpo.orchestration import versions
from modpo.orchestration.versions import earlier_versions, installed_versions, warn_of_versions

THEN = {"torch": "2.13.0", "transformers": "5.24.0", "deepspeed": "0.19.8", "peft": "0.19.0", "ray": "2.60.0"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    now = dict(THEN)
    monkeypatch.setattr(versions, "installed_versions", lambda: now)
    return now


def test_the_same_versions_are_no_reason_to_doubt() -> None:
    assert earlier_versions({"versions": THEN}) == []
    assert earlier_versions({}) == []
    assert list(warn_of_versions([])) == []


@pytest.mark.parametrize(
    ("name", "version", "doubtful"),
    [
        ("torch", "2.14.0", True),
        ("transformers", "6.0.0", True),
        ("deepspeed", "0.20.0", True),
        ("torch", "2.13.1", False),
        ("ray", "2.61.0", False),
    ],
)
def test_another_minor_version_of_what_computes_is(
    installed: dict[str, str], name: str, version: str, *, doubtful: bool
) -> None:
    installed[name] = version
    earlier = earlier_versions({"versions": THEN})
    assert earlier == [THEN]
    assert [problem.code for problem in warn_of_versions(earlier)] == ["MS-721"] * doubtful
    if doubtful:
        (problem,) = warn_of_versions(earlier)
        assert (problem.got, problem.wanted) == (f"{name} {version}", f"{name} {THEN[name]}")


def test_a_third_call_still_knows_the_first_versions(installed: dict[str, str]) -> None:
    installed["torch"] = "2.14.0"
    second = {"versions": dict(installed), "earlier_versions": earlier_versions({"versions": THEN})}
    assert earlier_versions(second) == [THEN]
    assert [problem.code for problem in warn_of_versions(earlier_versions(second))] == ["MS-721"]


def test_what_is_recorded() -> None:
    assert {"modpo", "ray", *versions.COMPUTING} <= set(versions.RECORDED)
    assert installed_versions is not versions.installed_versions
    assert set(versions.RECORDED) <= set(installed_versions())
