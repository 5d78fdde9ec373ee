"""A lock whose builder was killed is told from one that is held, and is not waited for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.file_baton import FileBaton

from modpo import doctor
from modpo.build_locks import LONGEST_BUILD_S, build_locks, remove_stale_locks


def lock_in(folder: Path, name: str) -> Path:
    path = folder / "py311_cpu" / name / "lock"
    path.parent.mkdir(parents=True)
    return path


def test_a_build_that_goes_on_keeps_its_lock(tmp_path: Path) -> None:
    """torch's own lock, as its builds take it."""
    path = lock_in(tmp_path, "deepspeed_shm_comm")
    baton = FileBaton(str(path))
    assert baton.try_acquire()
    (lock,) = build_locks(tmp_path)
    assert (lock.path, lock.holders, lock.is_stale) == (path, (os.getpid(),), False)
    assert remove_stale_locks(tmp_path) == []
    assert path.exists()
    baton.release()
    assert build_locks(tmp_path) == []


def test_a_killed_builder_leaves_a_lock_that_is_removed_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = lock_in(tmp_path, "deepspeed_shm_comm")
    code = (
        "import sys, time\nfrom torch.utils.file_baton import FileBaton\n"
        "print(FileBaton(sys.argv[1]).try_acquire(), flush=True)\ntime.sleep(600)"
    )
    # The baton must live as long as the process: held by nothing, it would be collected, but its file stays open.
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "True\n"
        assert [lock.holders for lock in build_locks(tmp_path)] == [(builder.pid,)]
        builder.kill()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert [lock.path for lock in remove_stale_locks(tmp_path)] == [path]
    assert str(path) in caplog.text
    # What torch would have waited for, with no message and no end.
    FileBaton(str(path)).wait()
    assert time.monotonic() - started < 10


def test_where_other_machines_may_build_a_lock_is_stale_by_its_age(tmp_path: Path) -> None:
    lock_in(tmp_path, "x").touch()
    (lock,) = build_locks(tmp_path)
    shared = replace(lock, is_shared=True)
    assert not replace(shared, age_s=LONGEST_BUILD_S - 1).is_stale
    assert replace(shared, age_s=LONGEST_BUILD_S + 1).is_stale
    assert not replace(shared, age_s=LONGEST_BUILD_S + 1, holders=(1,)).is_stale


def test_the_doctor_names_path_age_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    stale = lock_in(tmp_path, "a")
    stale.touch()
    os.utime(stale, (time.time() - 7200,) * 2)
    baton = FileBaton(str(lock_in(tmp_path, "b")))
    assert baton.try_acquire()
    findings = [finding for finding in doctor.examine() if "build" in finding.what]
    baton.release()
    assert [(finding.verdict, finding.what) for finding in findings] == [
        ("note", "stale build lock"),
        ("fine", "a build that goes on"),
    ]
    assert str(stale) in findings[0].found and "120 min old" in findings[0].found
    assert f"rm {stale}" in findings[0].remedy
    assert f"held by process {os.getpid()}" in findings[1].found
