"""stages.json: what every stage took, over all calls, those included that did not come to their end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from modpo.artifacts import write_json
from modpo.config import parse_config
from modpo.orchestration.differences import why_again
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
    stage = read_stages(state.run_dir)["sft"]
    assert (stage["seconds"], stage["device_seconds"], stage["skipped"]) == (7.0, 5.0, True)


def test_a_stage_that_fails_has_taken_its_time(state: RunState) -> None:
    def broken() -> None:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        run_stage(Stage("vertices", lambda: False, broken), state, Watcher())
    assert read_stages(state.run_dir)["vertices"]["skipped"] is False


class Told(Watcher):
    """What a terminal would show of the stages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str, *, skipped: bool, reason: str = "") -> None:
        self.lines.append(f"{name}{' skipped' if skipped else ''}: {reason}")


class TestReasons:
    """Why a stage that was there is not skipped."""

    def again(self, state: RunState, *, broken: bool = False, **changes: str) -> str:
        """The line on a stage whose inputs have changed, and which then fails or does not."""
        watcher, inputs = Told(), replace(Inputs(data="data", model="model", files={}), **changes)
        changed = replace(state, plan=plan_sweep(state.config, inputs))

        def work() -> None:
            if broken:
                raise RuntimeError("killed")

        with suppress(RuntimeError):
            run_stage(Stage("reference", lambda: False, work), changed, watcher)
        assert read_stages(state.run_dir)["reference"]["reason"] == watcher.lines[0].removeprefix("reference: ")
        return watcher.lines[0]

    def test_the_first_time_and_a_resumed_call_have_none(self, state: RunState) -> None:
        assert self.again(state, broken=True) == "reference: "
        assert self.again(state) == "reference: "

    def test_what_changed_is_named(self, state: RunState) -> None:
        self.again(state)
        assert self.again(state, data="new") == "reference: the data changed; done again"
        assert self.again(state, chat_template="new", model="m2") == (
            "reference: the chat template, the data and the model changed; done again"
        )

    def test_a_call_that_came_to_no_end_leaves_the_reason_to_the_next(self, state: RunState) -> None:
        self.again(state)
        for broken in (True, True, False):
            assert self.again(state, broken=broken, tokenizer="new") == "reference: the tokenizer changed; done again"
        assert self.again(state, tokenizer="new") == "reference: "

    def test_what_is_skipped_has_none_and_is_what_the_next_change_is_told_from(self, state: RunState) -> None:
        self.again(state)
        watcher, other = Told(), replace(state, plan=plan_sweep(state.config, Inputs("new", "model", {})))
        run_stage(Stage("reference", lambda: True, lambda: None), other, watcher)
        assert watcher.lines == ["reference skipped: "]
        assert self.again(state) == "reference: the data changed; done again"

    def test_a_vertex_is_named_by_what_made_it_another(self, state: RunState) -> None:
        raw = raw_sweep()
        del raw["objectives"][0]["reward"]
        config, two_workers = parse_config(raw), parse_config({**raw, "resources": {"num_workers": 2}})
        before, after = (plan_sweep(each, Inputs("data", "model", {})).keys for each in (config, two_workers))
        assert why_again(before["annotate"], after["annotate"]) == "the number of workers changed; done again"
        assert why_again(before["reference"], after["reference"]) == ""
