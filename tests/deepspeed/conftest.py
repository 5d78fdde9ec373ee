"""One small annotated run for all tests of this folder."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deepspeed.trainings import KINDS, Outcome, sweep_config, train_interrupted, train_to_end, write_run
from tests.deepspeed.two_workers import CROSSINGS, crossing_config, crossing_name

HERE = Path(__file__).parent
TIMEOUT_S = 300
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
def two_workers(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes did in every case of `two_workers`, beside `torch-extensions/` of their own."""
    output = tmp_path_factory.mktemp("two-workers")
    extensions = output / "torch-extensions"
    extensions.mkdir()
    for two, one, kind in CROSSINGS:
        config = crossing_config(run_dir, kind, stage=one, num_workers=1)
        checkpoints = output / crossing_name(two, one, kind, first="one") / "checkpoints"
        train_interrupted(run_dir, config, checkpoints, step=8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": str(extensions)}
    command = [sys.executable, "-m", "tests.deepspeed.two_workers", str(run_dir), str(output)]
    workers = []
    for rank in ("0", "1"):
        with (output / f"log-{rank}.txt").open("w", encoding="utf-8") as log:
            environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
            workers.append(subprocess.Popen(command, cwd=HERE.parent.parent, env=environment, stdout=log, stderr=log))
    try:
        codes = [worker.wait(TIMEOUT_S) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    logs = "\n".join((output / f"log-{rank}.txt").read_text(encoding="utf-8")[-3000:] for rank in "01")
    assert codes == [0, 0], logs
    return output


@pytest.fixture(scope="session")
def trajectory(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Outcome]:
    """20 undisturbed steps of one worker in float32, trained once a session: (kind, ZeRO stage) -> outcome."""

    @functools.cache
    def trained(kind: str, stage: int) -> Outcome:
        config = sweep_config(run_dir, lora=KINDS[kind], deepspeed={"stage": stage})
        return train_to_end(run_dir, config, tmp_path_factory.mktemp("trajectory"))

    return trained
