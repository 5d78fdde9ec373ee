"""Annotations made in this process, in any number of shards and ranks, one after the other."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import torch

from modpo.annotate import annotate_shard, merge_shards
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs, Work
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared

CPU = torch.device("cpu")


def prepared_inputs(folder: Path, config: SweepConfig) -> StageInputs:
    """What an annotation of the config's data starts from."""
    write_prepared(folder, config, load_data(config), model_path=config.model.name_or_path)
    return StageInputs(prepared=str(folder), start_model=config.model.name_or_path)


def annotated(
    folder: Path, config: SweepConfig, inputs: StageInputs, kind: str, *, shards: int = 1, ranks: int = 1
) -> Path:
    """A table made in this many shards of this many ranks each."""
    parts = folder / f"{kind}-parts-{shards}x{ranks}"
    output = folder / f"{kind}-{shards}x{ranks}"
    for shard in range(shards):
        for rank in range(ranks):
            annotate_shard(work(config, inputs, kind, parts, (shard, shards)), rank=rank, world_size=ranks, device=CPU)
    merge_shards(work(config, inputs, kind, parts), output=output, description={"stage": kind})
    return output


def work(config: SweepConfig, inputs: StageInputs, kind: str, parts: Path, shard: tuple[int, int] = (0, 1)) -> Work:
    return Work.model_validate(
        {
            "work_id": f"{kind}-{shard[0]}",
            "kind": kind,
            "run_dir": str(parts.parent),
            "config": config.model_dump(),
            "inputs": inputs.model_dump(),
            "output": str(parts),
            "shard": shard,
        }
    )


def columns(table: Path) -> dict[str, list[object]]:
    read: dict[str, list[object]] = pyarrow.parquet.read_table(table / "table.parquet").to_pydict()
    return read
