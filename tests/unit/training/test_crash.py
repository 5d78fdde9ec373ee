"""A process may die, or a machine lose its power, at any moment of a save: what is then there loads, old or new.

As ALICE does it (Pillai et al., OSDI 2014): the file operations of one save are recorded, and the folder is rebuilt as
it was before each of them; beside that, with whatever had not been synced by then missing or cut.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modpo.training.checkpoint import Checkpoints
from tests.acceptance.bits import differing
from tests.unit.training.states import of_two_ranks, state

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "shutil.rmtree"}


class Recorder:
    """Copies a folder before every operation on its files, and knows which of them a disk would have kept."""

    def __init__(self, root: Path, copies: Path) -> None:
        self.root, self.copies = root, copies
        self.synced: set[tuple[int, int]] = set()
        self.states: list[Path] = []
        self.unsynced: dict[Path, list[Path]] = {}
        self.active = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event in WATCHED and str(self.root) in str(arguments):
            self.copy()

    def copy(self) -> None:
        self.active = False
        target = self.copies / f"{len(self.states):03d}"
        shutil.copytree(self.root, target)
        files = [path for path in self.root.rglob("*") if path.is_file()]
        self.unsynced[target] = [target / p.relative_to(self.root) for p in files if self.key(p) not in self.synced]
        self.states.append(target)
        self.active = True

    def key(self, path: Path) -> tuple[int, int]:
        """Of this content of this file: what is written later must be synced again."""
        found = path.stat()
        return found.st_ino, found.st_size


@contextmanager
def recorded(root: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorder, fsync = Recorder(root, copies), os.fsync

    def counted(descriptor: int) -> None:
        if recorder.active:
            recorder.copy()
        fsync(descriptor)
        found = os.fstat(descriptor)
        recorder.synced.add((found.st_ino, found.st_size))

    monkeypatch.setattr(os, "fsync", counted)
    sys.addaudithook(recorder.hook)
    recorder.synced = {recorder.key(path) for path in root.rglob("*") if path.is_file()}
    recorder.active = True
    yield recorder
    recorder.copy()
    # An audit hook stays for the life of the process.
    recorder.active = False


def loaded(root: Path) -> int:
    """The step that a new process would go on from; fails where what it loads is not what was saved."""
    checkpoints = of_two_ranks(root)
    newest = checkpoints.newest_valid()
    assert newest is not None, "the old one was there"
    found = checkpoints.load(newest)
    expected = state(found.step, size=64)
    assert differing(found.parameters, expected.parameters) == 0
    assert differing(found.moments, expected.moments) == 0
    return found.step


def damaged_ways(folder: Path, unsynced: list[Path], copies: Path) -> Iterator[Path]:
    """The folder with what was not synced empty, cut or missing, one file after the other and all at once."""
    groups = [[path] for path in unsynced] + ([unsynced] if len(unsynced) > 1 else [])
    for number, group in enumerate(groups):
        for way in ("empty", "cut", "missing"):
            target = copies / f"{folder.name}-{number}-{way}"
            shutil.copytree(folder, target)
            for path in (target / path.relative_to(folder) for path in group):
                content = path.read_bytes()
                path.unlink() if way == "missing" else path.write_bytes(content[: len(content) // 2 * (way == "cut")])
            yield target


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step that is there already"])
def test_every_moment_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    checkpoints: Checkpoints = of_two_ranks(tmp_path / "checkpoints")
    for step in (10, 20):
        checkpoints.save(state(step, size=64))
    new = 20 if again else 30
    with recorded(checkpoints.root, tmp_path / "copies", monkeypatch) as recorder:
        checkpoints.save(state(new, size=64))
    assert len(recorder.states) > 8, "the operations of a save were seen"
    steps, ways = [], 0
    for copied in recorder.states:
        for way in damaged_ways(copied, recorder.unsynced[copied], tmp_path / "ways"):
            assert loaded(way) in (10, 20, new)
            ways += 1
        steps.append(loaded(copied))
    assert ways > 10
    # Once the new one is there it stays; before, at most the one before it is gone where its place is taken.
    assert steps == sorted(steps) or again
    assert steps[0] == 20 and steps[-1] == new and set(steps) <= ({10, 20} if again else {20, 30})
