"""One small annotated run for all tests of this folder."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.deepspeed.cells import Cell
from tests.deepspeed.pair import Pair
from tests.deepspeed.trainings import SAVED_STEP, Outcome, train_interrupted, train_to_end, write_run
from tests.deepspeed.two_workers import CROSSINGS, crossing_config, crossing_name

HERE = Path(__file__).parent
# PEFT asks for a property that transformers renames.
IGNORED_WARNINGS = ("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.deepspeed)
            for warning in IGNORED_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, demo_world: Path, one_worker: None) -> Path:
    """`world/`, `prepared/`, `start/`, `reference/` and `rewards/`: read it, write only into folders of your own."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(demo_world, folder / "world")
    write_run(folder)
    return folder


@pytest.fixture(scope="session")
def pair(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two processes that are one worker each of the same training."""
    both = Pair(run_dir, tmp_path_factory.mktemp("two-workers"))
    yield both
    both.end()


@pytest.fixture(scope="session")
def two_workers(run_dir: Path, pair: Pair) -> Path:
    """Folder with what two processes did in every case of `two_workers`, beside `torch-extensions/` of their own."""
    for two, one, kind in CROSSINGS:
        config = crossing_config(run_dir, kind, stage=one, num_workers=1)
        checkpoints = pair.output / crossing_name(two, one, kind, first="one") / "checkpoints"
        train_interrupted(run_dir, config, checkpoints, step=8)
    return pair.do("cases")


class Trajectory(Protocol):
    """The undisturbed training of a cell of the support matrix."""

    def __call__(self, kind: str, stage: int, dtype: str = "float32", offload: str = "none") -> Outcome: ...


@pytest.fixture(scope="session")
def trajectory(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """20 steps of one worker, trained once a session."""

    @functools.cache
    def train_once(cell: Cell) -> Outcome:
        config = cell.config(run_dir, save_steps=SAVED_STEP)
        return train_to_end(run_dir, config, tmp_path_factory.mktemp("trajectory"))

    def trained(kind: str, stage: int, dtype: str = "float32", offload: str = "none") -> Outcome:
        return train_once(Cell(kind, stage, dtype, offload))

    return trained
