"""The annotation is one table whatever shares it was made in, and equals what scoring each pair afresh gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from modpo.annotate import annotate_shard, distinct_completions, merge_shards, pair_completions
from modpo.artifacts import is_valid
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs, Work
from modpo.data.demo.rewards import brief, vivid
from modpo.data.loading import load_data
from modpo.data.pair_table import open_margin_rewards, open_pair_table
from modpo.data.prepare import write_prepared
from modpo.data.prepared import read_pairs
from modpo.errors import InternalError
from modpo.models import load_model
from modpo.scoring import ResponseModel, completion_logps
from tests.sweeps import world_sweep

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(demo_world: Path) -> SweepConfig:
    return world_sweep(demo_world, evaluation={"batch_size": 16})


@pytest.fixture(scope="module")
def prepared(config: SweepConfig, demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotate") / "prepared"
    write_prepared(folder, config, load_data(config), model_path=str(demo_world / "model"))
    return folder


def annotated(
    folder: Path, config: SweepConfig, inputs: StageInputs, kind: str, *, shards: int = 1, ranks: int = 1
) -> Path:
    """A table made in this many shards of this many ranks each, one after the other."""
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


@pytest.fixture(scope="module")
def inputs(prepared: Path, demo_world: Path) -> StageInputs:
    return StageInputs(prepared=str(prepared), start_model=str(demo_world / "model"))


@pytest.fixture(scope="module")
def reference(config: SweepConfig, inputs: StageInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotated(tmp_path_factory.mktemp("reference"), config, inputs, "reference")


def columns(table: Path) -> dict[str, list[object]]:
    read: dict[str, list[object]] = pyarrow.parquet.read_table(table / "table.parquet").to_pydict()
    return read


def test_reference_equals_scoring_every_pair_afresh(reference: Path, prepared: Path, config: SweepConfig) -> None:
    assert is_valid(reference)
    stored, pairs = columns(reference), read_pairs(prepared)
    model = ResponseModel(load_model(config.model), longest=64)
    assert stored["pair_id"] == [pair.pair_id for pair in pairs]
    for column, side in (("reference_chosen_logps", "chosen_ids"), ("reference_rejected_logps", "rejected_ids")):
        fresh = completion_logps(model, [p.prompt_ids for p in pairs], [getattr(p, side) for p in pairs], batch_size=1)
        assert stored[column] == pytest.approx(fresh.tolist(), abs=1e-4)


@pytest.mark.parametrize(("shards", "ranks"), [(1, 3), (4, 1), (2, 2)])
def test_shares_do_not_change_the_table(
    reference: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path, shards: int, ranks: int
) -> None:
    whole, shared = (
        columns(reference),
        columns(annotated(tmp_path, config, inputs, "reference", shards=shards, ranks=ranks)),
    )
    assert shared.keys() == whole.keys()
    assert shared["pair_id"] == whole["pair_id"]
    for name in set(whole) - {"pair_id"}:
        assert shared[name] == pytest.approx(whole[name], abs=1e-4)


def test_rewards_are_those_of_the_texts(
    reference: Path, prepared: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path
) -> None:
    """Both objectives on both sides of every pair, whichever objective the pair belongs to, in raw units."""
    scored = inputs.model_copy(update={"reference": str(reference)})
    stored = columns(annotated(tmp_path, config, scored, "rewards", shards=2, ranks=2))
    pairs = read_pairs(prepared)
    for name, reward in (("vivid", vivid), ("brief", brief)):
        for side in ("chosen", "rejected"):
            expected = reward([pair.prompt for pair in pairs], [getattr(pair, side) for pair in pairs])
            assert stored[f"{name}_{side}"] == pytest.approx(expected)


def test_trials_map_the_numbers_of_the_tables(
    reference: Path, prepared: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path
) -> None:
    """The same rows in the same order, with the tokens of pairs.parquet."""
    scored = inputs.model_copy(update={"reference": str(reference)})
    rewards = annotated(tmp_path, config, scored, "rewards")
    assert is_valid(rewards)
    table, stored, pairs = open_pair_table(reference), columns(reference), read_pairs(prepared)
    assert [[t.prompt_ids, *t.response_ids] for t in table.trees(np.arange(len(table)))] == [
        [pair.prompt_ids, pair.chosen_ids, pair.rejected_ids] for pair in pairs
    ]
    assert [table.objectives[number] for number in table.records["objective"]] == [pair.objective for pair in pairs]
    logps = zip(stored["reference_chosen_logps"], stored["reference_rejected_logps"], strict=True)
    assert table.records["reference_logps"].tolist() == list(map(list, logps))
    stored = columns(rewards)
    for name in ("vivid", "brief"):
        mapped = open_margin_rewards(rewards, name, num_pairs=len(pairs))
        assert mapped.T.tolist() == [stored[f"{name}_chosen"], stored[f"{name}_rejected"]]


def test_a_completion_is_scored_once_however_often_it_appears(prepared: Path) -> None:
    pairs = read_pairs(prepared)
    distinct = distinct_completions([*pairs, *pairs])
    keys = [completion.key for completion in distinct]
    assert len(keys) == len(set(keys)) < 2 * len(pairs)
    assert set(keys) == {completion.key for pair in pairs for completion in pair_completions(pair)}


def test_a_lost_share_is_not_passed_over(config: SweepConfig, inputs: StageInputs, tmp_path: Path) -> None:
    """Of two ranks one did its part: the table is refused by the ids that it lacks, and nothing is written."""
    parts = tmp_path / "parts"
    annotate_shard(work(config, inputs, "reference", parts), rank=0, world_size=2, device=CPU)
    with pytest.raises(InternalError, match="the reference table lacks"):
        merge_shards(work(config, inputs, "reference", parts), output=tmp_path / "table", description={})
    assert not (tmp_path / "table").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
