"""The run's own truth: one record a point, written whole, found again by trial id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modpo.artifacts import writing
from modpo.config import SweepConfig, parse_config
from modpo.config.spec import TrialSpec
from modpo.ledger import (
    PointRecord,
    evaluation_dir,
    final_dir,
    is_finished,
    point_dir,
    read_point,
    update_point,
    write_point,
)
from tests.sweeps import raw_sweep


def trial(trial_id: str = "vivid0.5", **changes: Any) -> TrialSpec:
    fields = {"weights": (0.5, 0.5), "primary": 0, "beta": 0.1, "seed": 0, "sources": (0,), "uses_rewards": True}
    return TrialSpec(**{"trial_id": trial_id, **fields, **changes})


@pytest.fixture
def config() -> SweepConfig:
    return parse_config(raw_sweep())


def test_a_point_that_was_never_started_has_no_record(tmp_path: Path) -> None:
    assert read_point(tmp_path, "nobody") is None


def test_first_update_creates_the_record_and_later_ones_keep_the_rest(tmp_path: Path) -> None:
    update_point(tmp_path, trial(), status="running", attempts=1)
    update_point(tmp_path, trial(), step=40, num_steps=100)
    record = read_point(tmp_path, "vivid0.5")
    assert record is not None
    assert record.spec == trial()
    assert (record.status, record.attempts, record.step, record.num_steps) == ("running", 1, 40, 100)


def test_record_comes_back_as_it_was_written_with_a_stamp(tmp_path: Path) -> None:
    record = PointRecord(
        spec=trial(),
        status="finished",
        device_seconds=12.5,
        final="final",
        result={"kl": {"value": 0.1, "low": 0, "high": 1}},
    )
    write_point(tmp_path, record)
    stored = read_point(tmp_path, "vivid0.5")
    assert stored is not None
    assert stored.updated_at > 0
    assert stored.model_copy(update={"updated_at": 0.0}) == record


def test_a_record_of_unknown_shape_is_refused(tmp_path: Path) -> None:
    update_point(tmp_path, trial())
    path = point_dir(tmp_path, "vivid0.5") / "point.json"
    path.write_text(path.read_text().replace('"attempts"', '"tries"'))
    with pytest.raises(ValueError, match="tries"):
        read_point(tmp_path, "vivid0.5")


def test_finished_means_measured_under_this_digest(tmp_path: Path) -> None:
    folder = evaluation_dir(tmp_path, trial(), "digest")
    name = str(folder.relative_to(tmp_path))
    assert not is_finished(tmp_path, trial(), "digest")
    update_point(tmp_path, trial(), status="finished", evaluation=name)
    assert not is_finished(tmp_path, trial(), "digest"), "the record says so, but the evaluation is not there"
    with writing(folder, {}):
        pass
    assert not is_finished(tmp_path, trial(), "digest"), "its weights are not there"
    with writing(final_dir(tmp_path, trial()), {}):
        pass
    assert is_finished(tmp_path, trial(), "digest")
    assert not is_finished(tmp_path, trial(), "other")
    update_point(tmp_path, trial(), status="running")
    assert not is_finished(tmp_path, trial(), "digest")


def test_a_trial_without_labels_has_no_primary() -> None:
    assert trial(primary=1).primary_name(["vivid", "brief"]) == "brief"
    assert trial(primary=None, loss_type="regression", sources=(0, 1)).primary_name(["vivid", "brief"]) is None
