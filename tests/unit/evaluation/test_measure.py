"""Held-out pairs are measured from the mapped table as from their texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from modpo.config.spec import StageInputs, Work
from modpo.data.loading import load_data
from modpo.data.pair_table import write_pair_table
from modpo.data.prepare import write_prepared
from modpo.data.prepared import read_pairs
from modpo.data.tokenize import load_tokenizer
from modpo.evaluation.measure import Measured, accuracy_rows
from modpo.models import TrainedModel, load_model
from modpo.scoring import ResponseModel, completion_logps
from tests.sweeps import world_sweep


def test_how_far_the_policy_prefers_the_chosen_side(demo_world: Path, tmp_path: Path) -> None:
    """Two shares of two ranks, against scoring each pair by itself: the policy's gap less the reference's."""
    config = world_sweep(demo_world, data={"eval_fraction": 0.3}, evaluation={"batch_size": 16})
    write_prepared(tmp_path / "prepared", config, load_data(config), model_path=config.model.name_or_path)
    pairs = read_pairs(tmp_path / "prepared")
    reference = np.random.default_rng(0).normal(-20, 5, size=(len(pairs), 2))
    (tmp_path / "reference").mkdir()
    write_pair_table(tmp_path / "reference", tmp_path / "prepared", reference)
    inputs = StageInputs(prepared="", start_model="", reference=str(tmp_path / "reference"))
    work = Work(work_id="p", kind="point", run_dir="", config=config, inputs=inputs, output="")
    base = load_model(config.model)
    measured = Measured(work, base, load_tokenizer(config.model.name_or_path), {})
    opened: list[bool] = []

    @contextmanager
    def trained() -> Iterator[TrainedModel]:
        opened.append(True)
        yield TrainedModel(base, lambda: nullcontext(base))

    shares = [accuracy_rows(measured, trained=trained, share=slice(rank, None, 2)) for rank in range(2)]
    rows: list[object] = [None] * sum(map(len, shares))
    rows[0::2], rows[1::2] = shares
    held_out = [(pair, logps) for pair, logps in zip(pairs, reference, strict=True) if pair.split == "eval"]
    assert len(rows) == len(held_out) > 10 and len(opened) == 2
    model = ResponseModel(base, longest=config.longest_sequence)
    numbers: dict[object, int] = {}
    for row, (pair, logps) in zip(rows, held_out, strict=True):
        sides = [pair.chosen_ids, pair.rejected_ids]
        policy = completion_logps(model, [pair.prompt_ids] * 2, sides, batch_size=1)
        assert isinstance(row, dict) and row["objective"] == pair.objective
        assert row["gap"] == pytest.approx(float(np.diff(logps - policy)[0]), abs=1e-4)
        # Equal prompts have equal numbers, and only they.
        assert numbers.setdefault(repr(pair.prompt), row["prompt"]) == row["prompt"]
    assert len(set(numbers.values())) == len(numbers)


def test_a_rank_without_held_out_pairs_loads_no_policy(demo_world: Path, tmp_path: Path) -> None:
    config = world_sweep(demo_world)
    write_prepared(tmp_path / "prepared", config, load_data(config), model_path=config.model.name_or_path)
    write_pair_table(tmp_path, tmp_path / "prepared", np.zeros((len(read_pairs(tmp_path / "prepared")), 2)))
    inputs = StageInputs(prepared="", start_model="", reference=str(tmp_path))
    work = Work(work_id="p", kind="point", run_dir="", config=config, inputs=inputs, output="")
    measured = Measured(work, load_model(config.model), load_tokenizer(config.model.name_or_path), {})
    none = slice(10_000, None)
    assert accuracy_rows(measured, trained=lambda: pytest.fail("a policy was opened"), share=none) == []
