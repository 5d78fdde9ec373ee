"""One driver a run, told with real processes: races, kills, drivers that are stopped and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.reliability.races import winners_of_leases
from modpo import lease
from modpo.artifacts import create_json, is_valid, read_json, remove, set_aside, write_json, writing
from modpo.errors import ConflictError
from modpo.telemetry import MetricsFile
from modpo.training.checkpoint import Checkpoints, TrainingState

BEAT_S = 0.05
TAKEOVER_S = 1.0
PATIENCE_S = 60.0

# Takes the run; then does one command a line: `commit NAME` or `end`; says what came of it, one line each.
DRIVER = f"""
import sys
from pathlib import Path
from modpo import lease
from modpo.artifacts import writing
from modpo.errors import ConflictError
lease.BEAT_S, lease.TAKEOVER_S = {BEAT_S}, {TAKEOVER_S}
run = Path(sys.argv[1])
def say(text): print(text, flush=True)
try:
    with lease.held(run, waiting=say) as epoch:
        say(f"epoch {{epoch}}")
        for line in sys.stdin:
            command, *names = line.split()
            if command == "end":
                break
            with writing(run / names[0], {{}}) as aside:
                (aside / "weights").write_text(names[0])
            say(f"committed {{names[0]}}")
except ConflictError as error:
    say(error.problems[0].code)
    sys.exit(error.exit_status)
"""


class Driver:
    """A process that works on a run."""

    def __init__(self, run: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Status of a driver that leaves by itself."""
        self.tell("end")
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start() -> Iterator[Callable[[Path], Driver]]:
    drivers: list[Driver] = []

    def begin(run: Path) -> Driver:
        drivers.append(Driver(run))
        return drivers[-1]

    yield begin
    for driver in drivers:
        with driver.process:
            driver.process.kill()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", BEAT_S)
    monkeypatch.setattr(lease, "TAKEOVER_S", TAKEOVER_S)


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def take_over(run: Path) -> None:
    """As another driver does."""
    row = read_json(run / "lease" / "000001.json")
    assert create_json(run / "lease" / "000002.json", row | {"epoch": 2})


@pytest.mark.slow
def test_of_eight_drivers_exactly_one_gets_the_run_in_each_of_twenty_rounds(tmp_path: Path) -> None:
    assert winners_of_leases(tmp_path, rounds=20, racers=8) == [1] * 20


def test_a_driver_at_work_is_named_to_the_next_one(tmp_path: Path, start: Callable[[Path], Driver]) -> None:
    first = start(tmp_path)
    assert first.says() == "epoch 1"
    lines: list[str] = []
    with pytest.raises(ConflictError) as refused, lease.held(tmp_path, waiting=lines.append):
        raise AssertionError("two drivers have the run")
    (problem,) = refused.value.problems
    who = f"process {first.process.pid} on {os.uname().nodename}"
    assert (refused.value.exit_status, problem.code, problem.where) == (3, "MS-311", str(tmp_path))
    assert problem.got.startswith(f"{who} since about ") and problem.got.endswith(" s (epoch 1)")
    assert "modpo status" in problem.remedy
    assert lines == [f"{who} has this run: waiting up to 30 s for a sign of life before taking it over"]
    assert lease.standing(tmp_path).startswith(f"taken by {who} since about ")
    assert first.end() == 0
    assert lease.standing(tmp_path) == f"no driver is at work; the last was {who}"


def test_the_next_driver_of_a_run_that_was_given_back_does_not_wait(
    tmp_path: Path, start: Callable[[Path], Driver]
) -> None:
    for epoch in (1, 2, 3):
        driver = start(tmp_path)
        assert driver.says() == f"epoch {epoch}", "and no line about waiting"
        assert driver.end() == 0


def test_a_killed_driver_is_followed_at_once(tmp_path: Path, start: Callable[[Path], Driver]) -> None:
    """Also while nobody has asked for its exit status, when its process id is still there."""
    killed = start(tmp_path)
    assert killed.says() == "epoch 1"
    killed.process.kill()
    os.waitid(os.P_PID, killed.process.pid, os.WEXITED | os.WNOWAIT)
    assert "is gone without a word" in lease.standing(tmp_path)
    assert start(tmp_path).says() == "epoch 2"
    killed.process.wait()
    assert "taken by" in lease.standing(tmp_path)


def test_a_driver_whose_process_id_came_again_is_gone(tmp_path: Path, quick: None) -> None:
    """This process has the number that an earlier one had."""
    with lease.held(tmp_path):
        row = read_json(tmp_path / "lease" / "000001.json")
        assert "taken by" in lease.standing(tmp_path)
        write_json(tmp_path / "lease" / "000001.json", row | {"process_start": row["process_start"] - 1})
        assert "is gone" in lease.standing(tmp_path)


def test_a_stopped_driver_loses_the_run_and_writes_nothing_when_it_comes_back(
    tmp_path: Path, start: Callable[[Path], Driver]
) -> None:
    first = start(tmp_path)
    assert first.says() == "epoch 1"
    first.tell("commit before")
    assert first.says() == "committed before"
    first.process.send_signal(signal.SIGSTOP)
    began, second = time.monotonic(), start(tmp_path)
    assert second.says().endswith("waiting up to 1 s for a sign of life before taking it over")
    assert second.says() == "epoch 2"
    assert time.monotonic() - began >= TAKEOVER_S
    second.tell("commit after")
    assert second.says() == "committed after"
    assert second.end() == 0
    left = files(tmp_path)
    first.tell("commit late")
    first.process.send_signal(signal.SIGCONT)
    assert first.says() == "MS-314"
    assert first.process.wait(PATIENCE_S) == 3
    assert files(tmp_path) == left


def test_a_driver_of_another_machine_is_waited_for(tmp_path: Path, quick: None) -> None:
    """Whether its process lives cannot be seen from here, though that process id is free."""
    with lease.held(tmp_path):
        row = read_json(tmp_path / "lease" / "000001.json")
    elsewhere = {**row, "machine": "another", "host": "node-7", "epoch": 2, "pid": 2**22 + 1}
    assert create_json(tmp_path / "lease" / "000002.json", elsewhere)
    lines: list[str] = []
    began = time.monotonic()
    with lease.held(tmp_path, waiting=lines.append) as epoch:
        assert epoch == 3
    assert time.monotonic() - began >= TAKEOVER_S
    assert lines[0].startswith(f"process {2**22 + 1} on node-7 has this run")


def test_a_driver_hears_that_it_has_lost_the_run_without_writing(tmp_path: Path, quick: None) -> None:
    heard: list[ConflictError] = []

    def lose() -> None:
        with lease.held(tmp_path, lost=heard.append):
            take_over(tmp_path)
            deadline = time.monotonic() + PATIENCE_S
            while not heard and time.monotonic() < deadline:
                time.sleep(0.01)

    with pytest.raises(ConflictError, match="MS-314"):
        lose()
    assert heard[0].problems[0].code == "MS-314"


def test_a_worker_of_an_earlier_driver_leaves_everything_as_it_is(tmp_path: Path) -> None:
    """Ledger, artefacts, metrics and checkpoints of its run; what lies elsewhere is no part of it."""
    run = tmp_path / "run"
    with lease.held(run):
        pass
    metrics, checkpoints = MetricsFile(run / "metrics.jsonl"), Checkpoints(run / "checkpoints", "trained")
    state = TrainingState(step=5, parameters={"w": torch.ones(2)}, moments={})
    with lease.fenced(run, 1):
        write_json(run / "point.json", {"step": 1})
        metrics.append({"step": 1})
        kept = checkpoints.save(state)

        def evaluate() -> None:
            with writing(run / "evaluation", {}) as aside:
                (aside / "samples").write_text("measured while another driver takes the run")
                take_over(run)

        with pytest.raises(ConflictError, match="MS-314"):
            evaluate()
        left = files(run)
        assert not any(name.startswith("evaluation") for name in left)
        late: list[Callable[[], object]] = [
            lambda: write_json(run / "point.json", {"step": 2}),
            lambda: metrics.append({"step": 2}),
            lambda: checkpoints.save(state),
            lambda: set_aside(kept),
            lambda: remove(kept),
            lambda: writing(run / "evaluation", {}).__enter__(),
        ]
        for write in late:
            with pytest.raises(ConflictError, match="MS-314"):
                write()
        assert files(run) == left
        assert is_valid(kept)
        write_json(tmp_path / "elsewhere.json", {})
    write_json(run / "point.json", {"step": 2})


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 4, 7, 8, 9, 37])
def test_the_last_of_any_number_of_drivers_is_found(tmp_path: Path, taken: int) -> None:
    for epoch in range(1, taken + 1):
        with lease.held(tmp_path) as found:
            assert found == epoch
    newest = lease.newest(tmp_path)
    assert (0 if newest is None else newest.epoch) == taken


def test_a_job_says_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the variable that Ray's job supervisor sets for the driver of a job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "small-1"}}))
    with lease.held(tmp_path):
        assert "(job small-1)" in lease.standing(tmp_path)


def test_a_reader_never_sees_half_a_lease(tmp_path: Path) -> None:
    """A process creates rows as fast as it can; whatever is there can be read whole."""
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom pathlib import Path\nfrom modpo.artifacts import create_json\n"
            "for n in range(10**6): create_json(Path(sys.argv[1]) / f'{n:06d}.json', {'n': n, 'filler': 'x' * 10_000})",
            str(tmp_path / "lease"),
        ]
    )
    try:
        read = 0
        deadline = time.monotonic() + PATIENCE_S
        while read < 200 and time.monotonic() < deadline:
            path = tmp_path / "lease" / f"{read:06d}.json"
            if path.exists():
                assert read_json(path) == {"n": read, "filler": "x" * 10_000}
                read += 1
        assert read == 200
    finally:
        writer.kill()
        writer.wait()
