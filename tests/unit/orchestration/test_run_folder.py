"""What a run's folder says about itself: whose it is, and whether its report is that of today's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modpo.artifacts import read_json, write_json
from modpo.config import parse_config
from modpo.errors import ConflictError
from modpo.orchestration.pipeline import refuse_other_config, report_digest
from modpo.orchestration.plan import identity_digest
from tests.sweeps import raw_sweep


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
    with pytest.raises(ConflictError) as caught:
        refuse_other_config(run_dir, parse_config(raw))
    (problem,) = caught.value.problems
    assert (problem.code, problem.got) == ("MS-312", "changed: model")


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
