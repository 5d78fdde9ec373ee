"""Whatever is planted in a run, in a model's folder or in a sweep file: nothing is run, nothing leads elsewhere."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from modpo.errors import ModpoError
from tests.pipeline.conftest import FinishedRun
from tests.pipeline.hostile import Found, commands_over, loaders, names_and_files, pickled, plant, torch_saved

pytestmark = pytest.mark.pipeline

WEIGHTS = (
    *("weights that are pickled", "a pickle under another name", "an adapter that is pickled", "an array of objects"),
    "a tokenizer beside pickles",
)


def test_the_canary_sings(tmp_path: Path) -> None:
    """Without this the tests below would pass with a canary that is mute."""
    pickle.loads(pickled(tmp_path / "first"))  # noqa: S301
    (tmp_path / "weights.pt").write_bytes(torch_saved(tmp_path / "second"))
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert (tmp_path / "first").exists() and (tmp_path / "second").exists()


@pytest.mark.parametrize("name", WEIGHTS[:-1])
def test_pickled_weights_and_arrays_are_refused_and_not_run(name: str, demo_world: Path, tmp_path: Path) -> None:
    with pytest.raises((ModpoError, OSError, ValueError, pickle.UnpicklingError)):
        loaders(demo_world, tmp_path, tmp_path / "fired")[name]()
    assert not (tmp_path / "fired").exists()


def test_a_tokenizer_is_read_from_its_own_files(demo_world: Path, tmp_path: Path) -> None:
    loaders(demo_world, tmp_path, tmp_path / "fired")[WEIGHTS[-1]]()
    assert not (tmp_path / "fired").exists()


def test_names_and_sweep_files_lead_nowhere(demo_world: Path, tmp_path: Path) -> None:
    found = Found()
    names_and_files(demo_world, tmp_path, found)
    assert found.tried >= 60
    assert (found.executed, found.escaped) == ([], [])


@pytest.mark.endurance
def test_every_command_over_a_run_full_of_pickles(finished_run: FinishedRun, tmp_path: Path) -> None:
    copied, fired = tmp_path / "runs" / "small", tmp_path / "fired"
    shutil.copytree(finished_run.path, copied)
    shutil.copy(finished_run.config, tmp_path / "sweep.yaml")
    assert plant(copied, fired) > 100
    statuses = dict(commands_over(copied, "status", "report", "run", "evaluate"))
    assert statuses == {"status": 0, "report": 0, "run": 0, "evaluate": 0}
    assert not fired.exists()
