"""When workers count as hung, on a clock that is set by hand; and what is kept of one that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modpo.orchestration.hangs import Vigil, WorkerProcess, bound_s
from modpo.orchestration.hung_workers import kill, stacks_of
from modpo.orchestration.pulse import Pulse
from modpo.processes import start_of

HANGING = """
import faulthandler, sys, time
def stuck_in_a_collective():
    print("ready", flush=True)
    time.sleep(600)
faulthandler.register({signal}, file=open(sys.argv[1], "w"), all_threads=True)
stuck_in_a_collective()
"""


def worker(rank: int) -> WorkerProcess:
    return WorkerProcess(rank, node_id="n", pid=100 + rank, started=1, stacks="")


@pytest.mark.parametrize(("usual_s", "bound"), [(0.2, 60.0), (6.0, 60.0), (6.1, 61.0), (90.0, 900.0), (None, 3600.0)])
def test_a_minute_or_ten_usual_steps_and_an_hour_for_what_says_nothing(usual_s: float | None, bound: float) -> None:
    assert bound_s(usual_s, 60.0) == pytest.approx(bound)


class TestVigil:
    @pytest.fixture
    def now(self) -> list[float]:
        return [0.0]

    @pytest.fixture
    def vigil(self, now: list[float]) -> Vigil:
        vigil = Vigil(lambda: now[0])
        for rank in (1, 0):
            vigil.enrol("s", worker(rank), 600.0)
        return vigil

    def test_all_ranks_of_a_silent_slot_are_hung(self, vigil: Vigil, now: list[float]) -> None:
        """Which of them is at fault cannot be seen from outside: all wait in the same collective."""
        vigil.hear("s", 60.0)
        now[0] = 60.0
        assert vigil.hung("s") == []
        now[0] = 60.1
        assert vigil.hung("s") == [worker(0), worker(1)]

    def test_one_rank_that_works_speaks_for_those_that_wait_for_it(self, vigil: Vigil, now: list[float]) -> None:
        for moment in range(0, 1000, 50):
            now[0] = float(moment)
            vigil.hear("s", 60.0)
            assert vigil.hung("s") == []

    def test_a_phase_that_says_nothing_has_its_own_bound(self, vigil: Vigil, now: list[float]) -> None:
        vigil.hear("s", 60.0)
        vigil.hear("s", 3600.0)
        now[0] = 3599.0
        assert vigil.hung("s") == []

    def test_workers_that_are_gone_are_not_hung(self, vigil: Vigil, now: list[float]) -> None:
        """New ones may take minutes to come, and a late word of the old ones changes nothing."""
        vigil.forget("s")
        vigil.hear("s", 60.0)
        now[0] = 5000.0
        assert vigil.hung("s") == []


class Heard:
    """Stands where the desk's actor is: what it was told, in order."""

    def __init__(self) -> None:
        self.bounds: list[float] = []
        self.beat = self
        self.remote = lambda slot, bound: self.bounds.append(bound)


def test_only_what_changes_something_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step each 10 ms for a minute: one word each six seconds, and each change at once."""
    now, heard = [0.0], Heard()
    monkeypatch.setattr("modpo.orchestration.pulse.time.monotonic", lambda: now[0])
    pulse = Pulse(heard, "s", 60.0, lambda: False)
    for step in range(6000):
        now[0] = step / 100
        pulse.beat(0.01)
    pulse.beat(None)
    pulse.beat(None)
    pulse.beat(0.01)
    assert heard.bounds == [60.0] * 10 + [3600.0, 60.0]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_stacks_of_a_process_that_does_nothing_are_had_from_outside(tmp_path: Path, is_stopped: bool) -> None:
    stacks = tmp_path / "stacks"
    script = HANGING.format(signal=int(signal.SIGUSR2))
    with subprocess.Popen([sys.executable, "-c", script, stacks], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if is_stopped:
            process.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 10
            while ") T " not in Path(f"/proc/{process.pid}/stat").read_text() and time.monotonic() < deadline:
                time.sleep(0.01)
        hung = WorkerProcess(0, "n", process.pid, start_of(process.pid), str(stacks))
        text = stacks_of(hung)
        assert text.startswith("state T (stopped)" if is_stopped else "state S (sleeping)")
        assert "in stuck_in_a_collective" in text
        kill(hung)
        assert process.wait(10) == -signal.SIGKILL
    assert not stacks.exists()


def test_a_process_that_took_over_the_number_is_left_alone() -> None:
    """Of ours: it has the pid, but began at another moment."""
    stranger = WorkerProcess(0, "n", os.getpid(), start_of(os.getpid()) + 1, stacks="/nonexistent/stacks")
    assert stacks_of(stranger) == "it is gone"
    assert kill(stranger) == ""
