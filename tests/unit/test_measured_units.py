"""Units of what measures new responses: of numbers in columns, that is a vertex, whose reward has another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from peft import PeftModel

from modpo.annotate import annotate_shard, merge_shards
from modpo.artifacts import read_json
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs, Work, WorkKind
from modpo.config.tree import LoraConfig
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared
from modpo.data.prepared import read_pairs
from modpo.evaluation.measure import open_measured
from modpo.models import attach_adapter, load_model
from modpo.scoring import ResponseModel, completion_logps
from modpo.training.batches import read_measured_units, read_units
from tests.sweeps import world_sweep

CPU = torch.device("cpu")
BETA = 0.25


def sweep(world: Path, folder: Path, normalize: str) -> SweepConfig:
    """`brief` has its reward in columns: a hundred points for every character."""
    config = world_sweep(world, training={"beta": BETA}).model_dump(mode="json")
    for objective in config["objectives"]:
        source = world / f"{objective['name']}.jsonl"
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        numbered = [row | {"a": 100 * len(row["chosen"]), "b": 100 * len(row["rejected"])} for row in rows]
        objective["pairs"]["path"] = str(folder / source.name)
        (folder / source.name).write_text("".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8")
    columns = {"type": "columns", "chosen": "a", "rejected": "b"}
    config["objectives"][1] |= {"reward": columns, "normalize": normalize}
    return SweepConfig.model_validate(config)


def annotated(config: SweepConfig, folder: Path) -> Work:
    """Every annotation of a sweep whose vertex of `brief` is a random adapter; returns the work that measures."""
    write_prepared(folder / "prepared", config, load_data(config), model_path=config.model.name_or_path)
    policy = attach_adapter(load_model(config.model), LoraConfig(r=2), seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    policy.save_pretrained(folder / "vertex")
    inputs = StageInputs(
        prepared=str(folder / "prepared"),
        start_model=config.model.name_or_path,
        reference=str(folder / "reference"),
        rewards=str(folder / "rewards"),
        vertices={"brief": str(folder / "vertex")},
    )

    def work(kind: WorkKind) -> Work:
        output = str(folder / f"{kind}-parts")
        return Work(work_id=kind, kind=kind, run_dir=str(folder), config=config, inputs=inputs, output=output)

    for kind in ("reference", "rewards"):
        annotate_shard(work(kind), rank=0, world_size=1, device=CPU)
        merge_shards(work(kind), output=folder / kind, description={})
    return work("point")


def vertex_gaps(config: SweepConfig, folder: Path) -> Any:
    """beta times the gap in log(pi / pi_ref) between the sides of every pair."""
    pairs = read_pairs(folder / "prepared")
    policy = PeftModel.from_pretrained(load_model(config.model), str(folder / "vertex")).eval()
    models = ResponseModel(load_model(config.model), longest=64), ResponseModel(policy, longest=64)
    sides = ([pair.chosen_ids for pair in pairs], [pair.rejected_ids for pair in pairs])
    prompts = [pair.prompt_ids for pair in pairs]
    (start, vertex) = (np.array([completion_logps(m, prompts, side, batch_size=8) for side in sides]) for m in models)
    chosen, rejected = BETA * (vertex - start)
    return chosen - rejected


def test_points_are_measured_in_the_unit_of_the_vertex(demo_world: Path, tmp_path: Path) -> None:
    config = sweep(demo_world, tmp_path, "std")
    work = annotated(config, tmp_path)
    own, measured = read_units(tmp_path / "rewards"), read_measured_units(tmp_path / "rewards")
    expected = np.sqrt(np.mean(vertex_gaps(config, tmp_path) ** 2) / 2)
    assert measured == {"vivid": 1.0, "brief": pytest.approx(expected, rel=1e-4)}
    assert own["vivid"] == 1.0 and own["brief"] > 100 * expected, "the numbers are far larger"
    units = open_measured(work, objectives=config.objectives, device=CPU).units
    assert units.tolist() == [1.0, measured["brief"]]
    # What the loss reads has the numbers alone.
    table = pyarrow.parquet.read_table(tmp_path / "rewards" / "table.parquet")
    assert table.column_names == ["pair_id", "vivid_chosen", "vivid_rejected", "brief_chosen", "brief_rejected"]
    gaps = table["brief_chosen"].to_numpy() - table["brief_rejected"].to_numpy()
    assert own["brief"] == pytest.approx(np.sqrt(np.mean(gaps**2) / 2))


def test_without_normalising_no_vertex_is_asked(demo_world: Path, tmp_path: Path) -> None:
    annotated(sweep(demo_world, tmp_path, "none"), tmp_path)
    assert read_measured_units(tmp_path / "rewards") == read_units(tmp_path / "rewards") == {"vivid": 1.0, "brief": 1.0}


def test_annotations_of_earlier_versions_have_one_kind_of_unit(tmp_path: Path) -> None:
    (tmp_path / "units.json").write_text('{"vivid": 2.0}')
    assert read_measured_units(tmp_path) == read_json(tmp_path / "units.json") == {"vivid": 2.0}
