"""Before a run goes on, whatever is damaged is set aside: found wherever it is, told in one line, never loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpo.artifacts import MANIFEST, is_complete, read_json, stage_path, write_json, writing
from modpo.config import parse_config
from modpo.ledger import evaluation_dir, final_dir, is_finished, is_trained, point_dir, read_point, update_point
from modpo.orchestration.pipeline import read_stages, refuse_other_config
from modpo.orchestration.plan import identity_digest
from modpo.orchestration.recovery import set_aside_damaged
from tests.sweeps import raw_sweep
from tests.unit.test_ledger import trial

TRIAL = trial()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with a stage, a finished point, and all of its small files."""
    config = parse_config(raw_sweep())
    identity = {"config": config.model_dump(mode="json"), "config_digest": identity_digest(config), "created_at": "now"}
    write_json(tmp_path / "run.json", identity)
    write_json(tmp_path / "stages.json", {"sweep": {"seconds": 1.0, "device_seconds": 2.0, "skipped": False}})
    write_json(tmp_path / "report" / "digest.json", {"digest": "0"})
    write_json(tmp_path / "report" / "summary.json", {"points": []})
    folder = evaluation_dir(tmp_path, TRIAL, "0a")
    for artefact in (stage_path(tmp_path, "rewards", "00ff"), final_dir(tmp_path, TRIAL), folder):
        with writing(artefact, {}) as aside:
            (aside / "numbers").write_bytes(bytes(range(200)))
    write_json(point_dir(tmp_path, TRIAL.trial_id) / "early_stopping.json", {"5": 0.5})
    update_point(tmp_path, TRIAL, status="finished", evaluation=str(folder.relative_to(tmp_path)))
    assert is_finished(tmp_path, TRIAL, "0a")
    return tmp_path


def test_a_run_that_is_whole_is_left_as_it_is(run_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert set_aside_damaged(run_dir) == []
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    assert set_aside_damaged(run_dir / "that is not there yet") == []


@pytest.mark.parametrize("name", ["artifacts/rewards-00ff", "points/vivid0.5/final", "points/vivid0.5/evaluation-0a"])
@pytest.mark.parametrize("damaged", ["numbers", MANIFEST])
def test_folders(run_dir: Path, name: str, damaged: str) -> None:
    folder = run_dir / name
    content = bytearray((folder / damaged).read_bytes())
    content[100] ^= 0x01
    (folder / damaged).write_bytes(content)
    (problem,) = set_aside_damaged(run_dir)
    assert (problem.code, problem.where) == ("MS-731", str(folder))
    assert problem.got in ("numbers has other bytes", f"{MANIFEST} is damaged")
    assert not folder.exists()
    (kept,) = folder.parent.glob(f".{folder.name}.bad-*")
    assert problem.remedy == f"nothing: it is made anew. What is left of it: {kept}"
    assert (kept / damaged).read_bytes() == content, "its bytes are still there to be looked at"
    assert set_aside_damaged(run_dir) == []


def test_a_folder_that_has_lost_its_manifest(run_dir: Path) -> None:
    (final_dir(run_dir, TRIAL) / MANIFEST).unlink()
    (problem,) = set_aside_damaged(run_dir)
    assert problem.got == f"it has no {MANIFEST}"


def test_weights_that_are_set_aside_are_trained_for_again_and_measurements_measured(run_dir: Path) -> None:
    """The ledger's word alone is not enough."""
    (evaluation_dir(run_dir, TRIAL, "0a") / "numbers").unlink()
    set_aside_damaged(run_dir)
    assert is_trained(run_dir, TRIAL) and not is_finished(run_dir, TRIAL, "0a")
    (final_dir(run_dir, TRIAL) / "numbers").unlink()
    set_aside_damaged(run_dir)
    assert not is_trained(run_dir, TRIAL) and not is_complete(final_dir(run_dir, TRIAL))


@pytest.mark.parametrize("text", ["", "{", '{"spec": {', "[]", "3", '{"sweep": 1}', "\x00\x00\x00"])
@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "stages.json", "report/digest.json", "report/summary.json"),
        *("points/vivid0.5/point.json", "points/vivid0.5/early_stopping.json"),
    ],
)
def test_small_files(run_dir: Path, name: str, text: str) -> None:
    (run_dir / name).write_text(text)
    (problem,) = set_aside_damaged(run_dir)
    assert (problem.code, problem.where) == ("MS-731", str(run_dir / name)) and problem.got
    assert not (run_dir / name).exists()
    config = parse_config(raw_sweep())
    refuse_other_config(run_dir, config)
    assert read_stages(run_dir) == {} or name != "stages.json"
    assert read_point(run_dir, TRIAL.trial_id) is None or name != "points/vivid0.5/point.json"


def test_a_run_json_that_cannot_be_read_is_no_other_config(run_dir: Path) -> None:
    """Who looks before it is set aside: what the run holds is named by content, so nothing wrong can be reused."""
    (run_dir / "run.json").write_text('{"config"')
    refuse_other_config(run_dir, parse_config(raw_sweep()))


def test_many_at_once(run_dir: Path) -> None:
    (run_dir / "stages.json").write_text("{")
    (final_dir(run_dir, TRIAL) / "numbers").write_bytes(b"")
    (point_dir(run_dir, TRIAL.trial_id) / "point.json").write_text("{")
    where = [problem.where for problem in set_aside_damaged(run_dir)]
    assert [Path(place).name for place in where] == ["final", "stages.json", "point.json"]
    assert read_json(run_dir / "run.json")["created_at"] == "now"
