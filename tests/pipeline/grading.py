"""Whether `modpo validate` says clearly what is wrong: one judge for every bad sweep file and every bad row.

`grade` is also called where the figures of reliability are made.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from modpo import cli
from modpo.errors import MAX_SHOWN_CHARACTERS, MAX_SHOWN_PROBLEMS
from tests.pipeline.bad_configs import BAD_CONFIGS, GOOD_CONFIGS, ConfigCase
from tests.pipeline.bad_files import BAD_FILES
from tests.pipeline.bad_forms import BAD_FORMS
from tests.pipeline.bad_pairs import BAD_PAIRS
from tests.pipeline.data_cases import SECRET, Case
from tests.pipeline.good_data import GOOD_DATA

HEADER = re.compile(r"error\[(MS-\d{3})\]: \S.*")
LINE = re.compile(r"  (-->|got:|wanted:|help:) \S.*")
QUOTED = re.compile(r"  got: (['\"].*)")
REST = re.compile(r"\.\.\. and \d+ more of \d+ problems")
LONGEST_LINE = 400
INTERNAL = {"MS-104", "MS-600"}


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    output: str
    errors: str
    left: tuple[str, ...] = ()
    """Files that are there after it and were not before."""


@dataclass
class Grades:
    """How many bad inputs there are, and which of them were judged how."""

    bad: int = 0
    valid: int = 0
    unclear: dict[str, list[str]] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    false_refusals: list[str] = field(default_factory=list)

    @property
    def clear(self) -> int:
        return self.bad - len(self.unclear) - len(self.silent)


def assert_clear_error(
    outcome: Outcome, *, status: int = 2, codes: Sequence[str] = (), where: str = "", hidden: Sequence[str] = (SECRET,)
) -> None:
    """Holds an outcome to the contract of docs/errors.md, in whichever way it is broken."""
    assert not (faults := list(faults_of(outcome, status, codes, where, hidden))), (faults, outcome.errors)


def faults_of(outcome: Outcome, status: int, codes: Sequence[str], where: str, hidden: Sequence[str]) -> Iterator[str]:
    """Every way in which an error is not clear."""
    text, lines = outcome.errors, outcome.errors.rstrip("\n").split("\n")
    found = {match[1] for match in map(HEADER.fullmatch, lines) if match}
    blocks = text.split("error[")[1:]
    if outcome.status != status:
        yield f"exit status {outcome.status}, not {status}"
    if outcome.output or outcome.left:
        yield f"it leaves something: {outcome.output[:40]!r}, files {', '.join(outcome.left)}"
    if not blocks or len(blocks) > MAX_SHOWN_PROBLEMS:
        yield f"{len(blocks)} errors"
    if not all("\n  --> " in block and "\n  help: " in block for block in blocks):
        yield "an error without place or remedy"
    if missing := set(codes) - found:
        yield f"no {', '.join(sorted(missing))}"
    if found & INTERNAL:
        yield "an error that blames modpo, or the command line"
    if not any(where in line for line in lines if line.startswith("  --> ")):
        yield f"no place {where}"
    yield from (fault for line in lines for fault in _faults_of_line(line))
    yield from (f"it repeats {secret!r}" for secret in hidden if secret in text)


def _faults_of_line(line: str) -> Iterator[str]:
    if not any(form.fullmatch(line) for form in (HEADER, LINE, REST)):
        yield f"a line of another form: {line[:80]!r}"
    if not line.isprintable():
        yield "characters that a terminal obeys"
    value = QUOTED.match(line)
    if len(line) > LONGEST_LINE or (value and len(value[1]) > MAX_SHOWN_CHARACTERS):
        yield "a value that is not cut"


def validated(config: bytes, folder: Path, overrides: Sequence[str] = ()) -> Outcome:
    """`modpo validate` in this process, from the command line's own entry point."""
    path = folder / "sweep.yaml"
    path.write_bytes(config)
    before = set(folder.rglob("*"))
    arguments = ["validate", str(path), *(part for override in overrides for part in ("--set", override))]
    status, output, errors = 0, io.StringIO(), io.StringIO()
    search_path, environment = list(sys.path), dict(os.environ)
    with chdir(folder), redirect_stdout(output), redirect_stderr(errors):
        try:
            cli.main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.path[:] = search_path
            os.environ.clear()
            os.environ.update(environment)
    left = tuple(sorted(str(file.relative_to(folder)) for file in set(folder.rglob("*")) - before))
    return Outcome(status, output.getvalue(), errors.getvalue(), left)


def grade(world: Path, folder: Path) -> Grades:
    """Every case of the catalogue, each in a folder of its own.

    Args:
        world: folder of a demo world, which is only read.
        folder: an empty one.
    """
    grades = Grades()
    bad_data: dict[str, Case] = BAD_FILES | BAD_PAIRS | BAD_FORMS
    for number, (name, case) in enumerate([*bad_data.items(), *BAD_CONFIGS.items()]):
        outcome, expected = _tried(case, world, folder / f"bad-{number}"), _expected(case)
        grades.bad += 1
        if outcome.status == 0:
            grades.silent.append(name)
        elif faults := list(faults_of(outcome, *expected)):
            grades.unclear[name] = faults
    for number, (name, case) in enumerate([*GOOD_DATA.items(), *GOOD_CONFIGS.items()]):
        outcome = _tried(case, world, folder / f"valid-{number}")
        grades.valid += 1
        if outcome.status != 0 or outcome.left:
            grades.false_refusals.append(name)
    return grades


def _tried(case: Case | ConfigCase, world: Path, folder: Path) -> Outcome:
    folder.mkdir()
    if isinstance(case, ConfigCase):
        return validated(case.write(world), folder, case.overrides)
    return validated(yaml.safe_dump(case.write(world, folder), sort_keys=False).encode(), folder)


def _expected(case: Case | ConfigCase) -> tuple[int, Sequence[str], str, Sequence[str]]:
    if isinstance(case, ConfigCase):
        return case.status, case.codes, case.where, case.hidden
    return 2, re.findall(r"error\[(MS-\d{3})\]", case.message), "", (SECRET,)
