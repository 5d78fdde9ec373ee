"""Secrets and texts go nowhere but where they belong, also where a reward function prints and raises them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.leaks import SENTENCE, CanaryRun, canary_run, leaks, unexpected_imports

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]


@pytest.fixture(scope="module")
def made(demo_world: Path) -> Iterator[CanaryRun]:
    # Not below pytest's own folder, whose path is too long for Ray's sockets.
    folder = Path(tempfile.mkdtemp(prefix="leaks-"))
    yield canary_run(demo_world, folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_the_commands_did_what_they_should(made: CanaryRun) -> None:
    assert made.statuses == {"validate": 0, "plan": 0, "failing run": 5, "run": 0, "status": 0, "report": 0}


def test_no_secret_is_anywhere(made: CanaryRun) -> None:
    found = leaks(made)
    assert found.searched > 100
    assert found.secrets == ()


def test_the_masked_lines_are_there(made: CanaryRun) -> None:
    """The function did print: its lines are in Ray's logs, without the secrets."""
    logs = [
        path.read_text(errors="replace") for path in made.folder.rglob("*") if path.suffix in {".out", ".err", ".log"}
    ]
    assert any("secrets: <secret> <secret>" in log for log in logs)


def test_prompts_are_in_the_data_alone(made: CanaryRun) -> None:
    assert leaks(made).prompts == ()
    assert SENTENCE in (made.run / "report" / "index.html").read_text(encoding="utf-8")


def test_reward_code_is_imported_by_workers_that_score_and_by_nothing_else(made: CanaryRun) -> None:
    assert list(unexpected_imports(made)) == []
