"""stages.json: what every stage took, over all calls, those included that did not come to their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpo.artifacts import write_json
from modpo.config import parse_config
from modpo.orchestration.digests import Inputs
from modpo.orchestration.live import Watcher
from modpo.orchestration.pipeline import Stage, read_stages, run_stage
from modpo.orchestration.plan import plan_sweep
from modpo.orchestration.session import Session
from modpo.orchestration.stages import RunState
from tests.sweeps import raw_sweep


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    """A run whose session never connects."""
    config = parse_config(raw_sweep())
    plan = plan_sweep(config, Inputs(data="data", model="model", files={}))
    return RunState(config, tmp_path, plan, Session(config, tmp_path, num_trials=1))


def test_seconds_of_all_calls_add_up(state: RunState) -> None:
    earlier = {"seconds": 100.0, "device_seconds": 40.0, "skipped": False}
    write_json(state.run_dir / "stages.json", {"sweep": earlier, "evaluate": earlier})
    run_stage(Stage("sweep", lambda: False, lambda: None), state, Watcher())
    stages = read_stages(state.run_dir)
    assert stages["evaluate"] == earlier, "other stages keep what they have"
    assert stages["sweep"]["seconds"] >= 100 and stages["sweep"]["device_seconds"] == 40


def test_a_stage_with_nothing_to_do_takes_nothing(state: RunState) -> None:
    write_json(state.run_dir / "stages.json", {"sft": {"seconds": 7.0, "device_seconds": 5.0, "skipped": False}})

    def forbidden() -> None:
        raise AssertionError("it is done already")

    run_stage(Stage("sft", lambda: True, forbidden), state, Watcher())
    assert read_stages(state.run_dir) == {"sft": {"seconds": 7.0, "device_seconds": 5.0, "skipped": True}}


def test_a_stage_that_fails_has_taken_its_time(state: RunState) -> None:
    def broken() -> None:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        run_stage(Stage("vertices", lambda: False, broken), state, Watcher())
    assert read_stages(state.run_dir)["vertices"]["skipped"] is False
