"""The prepare stage in several processes writes what it writes in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpo.artifacts import read_json
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared
from tests.sweeps import world_sweep

pytestmark = pytest.mark.pipeline


def test_two_processes_write_the_same_bytes(demo_world: Path, tmp_path: Path) -> None:
    written = []
    for num_proc in (1, 2):
        config = world_sweep(demo_world, data={"num_proc": num_proc}, sft={})
        folder = tmp_path / str(num_proc)
        write_prepared(folder, config, load_data(config), model_path=str(demo_world / "model"))
        written.append(read_json(folder / "manifest.json")["files"])
    assert written[0] == written[1]
