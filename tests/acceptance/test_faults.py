"""The tests see what they are there to see: for each deliberate fault in a copy of the package a named test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.acceptance.faults import FAULTS, Fault

RUN_ON_COPY = """
import sys
from pathlib import Path

import modpo
import pytest

copy, *arguments = sys.argv[1:]
assert Path(modpo.__file__).is_relative_to(copy), f"{modpo.__file__} is not in the copy"
sys.exit(pytest.main(arguments))
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one test: `passed`, `skipped`, `failure` or `error` (its fixtures), and the first words of why."""

    test: str
    kind: str
    reason: str

    @property
    def is_failed_assertion(self) -> bool:
        return self.kind == "failure" and self.reason.startswith(("AssertionError", "assert "))


def copied(repository: Path, folder: Path) -> Path:
    """The package with its tests, and nothing of what was compiled from them."""
    for name in ("modpo", "tests"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", folder)
    return folder


def outcomes(copy: Path, tests: list[str]) -> list[Outcome]:
    """Runs tests of a copy, on the package of that copy, in a process of their own."""
    report = copy / "report.xml"
    arguments = [*tests, "--quiet", "-p", "no:cacheprovider", f"--junitxml={report}"]
    finished = subprocess.run(
        [sys.executable, "-c", RUN_ON_COPY, str(copy), *arguments],
        env=os.environ | {"PYTHONPATH": str(copy)},
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.is_file(), f"the tests did not run: {finished.stdout[-2000:]}{finished.stderr[-2000:]}"
    return [_outcome(case) for case in ElementTree.parse(report).getroot().iter("testcase")]


def _outcome(case: ElementTree.Element) -> Outcome:
    for kind in ("error", "failure", "skipped"):
        if (found := case.find(kind)) is not None:
            return Outcome(case.attrib["name"], kind, found.attrib["message"])
    return Outcome(case.attrib["name"], "passed", "")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught(fault: Fault, repository: Path, tmp_path: Path) -> None:
    """By failed assertions alone: neither by an import that fails nor by an exception from elsewhere."""
    copy = copied(repository, tmp_path / "copy")
    fault.plant(copy)
    found = outcomes(copy, [fault.test])
    assert found and all(outcome.is_failed_assertion for outcome in found), found
    print(f"{fault.name} -> caught by {fault.test}")


@pytest.mark.slow
def test_the_same_tests_pass_without_a_fault(repository: Path, tmp_path: Path) -> None:
    found = outcomes(copied(repository, tmp_path / "copy"), [fault.test for fault in FAULTS])
    assert {outcome.kind for outcome in found} == {"passed"}, found
    assert {outcome.test.split("[")[0] for outcome in found} == {fault.test.rsplit("::")[-1] for fault in FAULTS}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_one_place_in_the_code(fault: Fault, repository: Path, tmp_path: Path) -> None:
    """Who changes such a line is told at once, and not by the long suite."""
    path = tmp_path / fault.file
    path.parent.mkdir(parents=True)
    shutil.copy(repository / fault.file, path)
    fault.plant(tmp_path)
    assert path.read_text() != (repository / fault.file).read_text()
