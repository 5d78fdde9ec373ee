"""Labels that are begun by two workers and ended by one are those of one: none is lost, and none comes twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from modpo.config import SweepConfig
from modpo.config.spec import StageInputs, Work
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared
from modpo.label import CHUNK_PROMPTS, label_shard
from tests.deepspeed.trainings import DEVICE
from tests.sweeps import world_sweep

NUM_PROMPTS = CHUNK_PROMPTS + 5


def labelled(run_dir: Path, folder: Path) -> SweepConfig:
    """A sweep whose pairs of `brief` are made from prompts."""
    world = run_dir / "world"
    lines = (world / "vivid.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = list(dict.fromkeys(json.loads(line)["prompt"] for line in lines))[:NUM_PROMPTS]
    assert len(prompts) == NUM_PROMPTS
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    reward = {"type": "function", "function": "modpo.data.demo.rewards:brief"}
    return world_sweep(
        world,
        objectives=[
            {"name": "vivid", "pairs": {"path": "demo:vivid.jsonl"}},
            {"name": "brief", "reward": reward},
        ],
        label={"prompts": {"path": str(path)}, "responses_per_prompt": 2, "max_new_tokens": 4},
    )


def test_a_labelling_goes_on_with_another_number_of_workers(run_dir: Path, tmp_path: Path) -> None:
    config = labelled(run_dir, tmp_path)
    write_prepared(tmp_path / "prepared", config, load_data(config), model_path=config.model.name_or_path)
    inputs = StageInputs(prepared=str(tmp_path / "prepared"), start_model=str(run_dir / "start"))

    def label(output: str, *, rank: int, world_size: int) -> int:
        work = Work(
            work_id="label",
            kind="label",
            run_dir=str(tmp_path),
            config=config,
            inputs=inputs,
            output=str(tmp_path / output),
        )
        return label_shard(work, rank=rank, world_size=world_size, device=DEVICE, report=lambda progress: None)

    counts = [label("resized", rank=0, world_size=2), label("resized", rank=0, world_size=1)]
    assert label("alone", rank=0, world_size=1) == 2 * NUM_PROMPTS
    # The first of two workers has the first of two chunks; the other has five prompts.
    assert counts == [2 * CHUNK_PROMPTS, 2 * 5]
    assert samples(tmp_path / "resized") == samples(tmp_path / "alone")


def samples(parts: Path) -> list[dict[str, Any]]:
    tables = [pyarrow.parquet.read_table(path) for path in sorted(parts.glob("part-*/part.parquet"))]
    rows: list[dict[str, Any]] = pyarrow.concat_tables(tables).sort_by("prompt_number").to_pylist()
    return rows
