"""What a run's folder says about itself: whose it is, and whether its report is that of today's figures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability.keys import other_row
from modpo.artifacts import is_complete, read_json, write_json
from modpo.config import parse_config
from modpo.data.prepare import write_prepared
from modpo.errors import ConflictError
from modpo.orchestration.live import Watcher
from modpo.orchestration.pipeline import Stage, opened, refuse_other_config, report_digest, run_stage
from modpo.orchestration.plan import identity_digest
from tests.sweeps import raw_sweep, world_sweep


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    config = parse_config(raw_sweep())
    stored: dict[str, Any] = config.model_dump(mode="json")
    write_json(tmp_path / "run.json", {"config": stored, "config_digest": identity_digest(config), "trials": []})
    return tmp_path


def test_the_same_config_is_welcome_and_another_is_named(run_dir: Path) -> None:
    raw = raw_sweep()
    refuse_other_config(run_dir, parse_config(raw))
    raw["model"]["revision"] = "v2"
    raw["training"] = {"learning_rate": 5.0e-4}
    raw["objectives"][1]["unit"] = 2
    raw["sft"] = {}
    with pytest.raises(ConflictError) as caught:
        refuse_other_config(run_dir, parse_config(raw))
    (problem,) = caught.value.problems
    assert (problem.code, caught.value.exit_status) == ("MS-312", 3)
    assert problem.got == (
        "model.revision 'v2', was not given; objectives[1].unit 2.0, was 1.0; sft given, was not given; "
        "training.learning_rate 0.0005, was 0.0002"
    )


def test_of_many_changes_the_first_are_shown(run_dir: Path) -> None:
    raw = raw_sweep(training={"learning_rate": 1e-3, "beta": 0.2, "max_steps": 3, "save_steps": 4}, seed=1)
    raw["model"]["lora"] = {"r": 4, "lora_alpha": 8}
    with pytest.raises(ConflictError) as caught:
        refuse_other_config(run_dir, parse_config(raw))
    (problem,) = caught.value.problems
    assert problem.got == (
        "seed 1, was 0; model.lora.lora_alpha 8.0, was 32.0; model.lora.r 4, was 16; training.beta 0.2, was 0.1; "
        "training.learning_rate 0.001, was 0.0002; 2 more"
    )


def test_changed_data_under_the_same_config_makes_new_artefacts_and_points_and_says_why(
    demo_world: Path, tmp_path: Path
) -> None:
    """The old ones stay where they are, and out of the report, which has the points that run.json names."""
    world = tmp_path / "world"
    shutil.copytree(demo_world, world)
    config = world_sweep(world, storage_path=str(tmp_path / "runs"))
    told: list[str] = []

    class Told(Watcher):
        def stage(self, name: str, *, skipped: bool, reason: str = "") -> None:
            told.append(f"{name}: {'skipped' if skipped else reason}")

    def prepare() -> list[str]:
        """Runs the first stage and returns the points that the run then has."""
        with opened(config, Told()) as (state, data):
            folder, model = Path(state.inputs.prepared), config.model.name_or_path

            def write() -> None:
                write_prepared(folder, state.config, data, model_path=model)

            run_stage(Stage("prepare", lambda: is_complete(folder), write), state, Told())
        trials: list[str] = read_json(run / "run.json")["trials"]
        return trials

    run = tmp_path / "runs" / "small"
    before = prepare()
    assert prepare() == before
    other_row(world / "brief.jsonl")
    after = prepare()
    assert told == ["prepare: ", "prepare: skipped", "prepare: the data changed; done again"]
    assert len(list(run.glob("artifacts/prepared-*"))) == 2
    assert len(before) == len(after) and not set(before) & set(after)


def test_a_key_that_an_earlier_version_did_not_have_is_no_change_by_its_default(run_dir: Path) -> None:
    stored = read_json(run_dir / "run.json")
    del stored["config"]["model"]["load_in_4bit"]
    write_json(run_dir / "run.json", stored | {"config_digest": "of the keys that there were"})
    raw = raw_sweep()
    refuse_other_config(run_dir, parse_config(raw))
    raw["model"]["load_in_4bit"] = True
    with pytest.raises(ConflictError):
        refuse_other_config(run_dir, parse_config(raw))


def test_a_report_is_old_when_a_stage_was_done_again(run_dir: Path) -> None:
    """Its costs come from stages.json, which points know nothing of."""
    stage = {"seconds": 3.0, "device_seconds": 2.0, "skipped": False}
    write_json(run_dir / "stages.json", {"annotate": stage})
    before = report_digest(run_dir)
    write_json(run_dir / "stages.json", {"annotate": stage | {"seconds": 4.0, "skipped": True}})
    assert report_digest(run_dir) == before, "the seconds of a call are no cost"
    write_json(run_dir / "stages.json", {"annotate": stage | {"device_seconds": 4.0}})
    assert report_digest(run_dir) != before
