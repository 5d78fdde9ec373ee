"""Annotated pairs as tensors: every number beside its own pair, side and objective."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from modpo.core.batch import IGNORED_LABEL
from modpo.data.prepared import ResponseText
from modpo.errors import InternalError
from modpo.training.batches import AnnotatedPairs, read_annotated, reward_columns, text_batch

CPU = torch.device("cpu")
NAMES = ("vivid", "brief", "safe")
NO = IGNORED_LABEL
# Values say where they belong: pair 1, 2, 3 in the units, chosen 0.1 and rejected 0.2, the objective in the tens.
PAIRS = [("p1", "vivid", "train"), ("p2", "brief", "train"), ("p3", "vivid", "train"), ("p4", "vivid", "eval")]


@pytest.fixture
def artefacts(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(prepared, reference, rewards), the annotation's rows in another order than the pairs."""
    prepared = [
        {
            "pair_id": pair_id,
            "objective": objective,
            "split": split,
            "prompt": json.dumps("Hi"),
            "chosen": "c",
            "rejected": "r",
            "prompt_ids": [10 + number],
            "chosen_ids": [20 + number, 2],
            "rejected_ids": [30 + number, 31, 2],
        }
        for number, (pair_id, objective, split) in enumerate(PAIRS, start=1)
    ]
    ids, numbers = [pair_id for pair_id, _, _ in reversed(PAIRS)], np.arange(len(PAIRS), 0, -1)
    reference = {"reference_chosen_logps": -numbers - 0.1, "reference_rejected_logps": -numbers - 0.2}
    rewards = {}
    for tens, name in enumerate(NAMES, start=1):
        chosen, rejected = reward_columns(name)
        rewards |= {chosen: 10.0 * tens + numbers + 0.1, rejected: 10.0 * tens + numbers + 0.2}
    folders = tmp_path / "prepared", tmp_path / "reference", tmp_path / "rewards"
    for folder in folders:
        folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(prepared), folders[0] / "pairs.parquet")
    for folder, columns in zip(folders[1:], (reference, rewards), strict=True):
        pyarrow.parquet.write_table(pyarrow.table({"pair_id": ids, **columns}), folder / "table.parquet")
    return folders


WEIGHTS = dict.fromkeys(NAMES, 1 / len(NAMES))


def read(
    artefacts: tuple[Path, Path, Path],
    *sources: str,
    with_rewards: bool = True,
    weights: Mapping[str, float] = WEIGHTS,
) -> AnnotatedPairs:
    prepared, reference, rewards = artefacts
    return read_annotated(
        prepared,
        reference,
        rewards if with_rewards else None,
        sources=sources or ["vivid"],
        weights=weights,
    )


def test_training_pairs_of_the_primary_objective_only(artefacts: tuple[Path, Path, Path]) -> None:
    assert [pair.pair_id for pair in read(artefacts).pairs] == ["p1", "p3"]
    assert [pair.pair_id for pair in read(artefacts, "brief").pairs] == ["p2"]


def test_every_number_stands_beside_its_pair_side_and_objective(artefacts: tuple[Path, Path, Path]) -> None:
    batch = read(artefacts).batch([1, 0], CPU)
    assert batch.num_pairs == 2
    assert batch.reference.chosen.tolist() == [-3.1, -1.1]
    assert batch.reference.rejected.tolist() == [-3.2, -1.2]
    assert batch.margin_rewards.chosen.tolist() == [[13.1, 23.1, 33.1], [11.1, 21.1, 31.1]]
    assert batch.margin_rewards.rejected.tolist() == [[13.2, 23.2, 33.2], [11.2, 21.2, 31.2]]
    assert batch.reference.chosen.dtype == batch.margin_rewards.chosen.dtype == torch.float64


def test_order_of_the_objectives_is_the_callers(artefacts: tuple[Path, Path, Path]) -> None:
    turned = read(artefacts, weights=dict.fromkeys(NAMES[::-1], 1 / 3))
    assert turned.batch([0], CPU).margin_rewards.chosen.tolist() == [[31.1, 21.1, 11.1]]


def test_rewards_without_weight_are_not_looked_at(artefacts: tuple[Path, Path, Path]) -> None:
    """They may not even be known on these pairs: NaN there must not reach the loss."""
    path = artefacts[2] / "table.parquet"
    table = pyarrow.parquet.read_table(path)
    for column in reward_columns(NAMES[1]):
        position = table.column_names.index(column)
        table = table.set_column(position, column, pyarrow.array([math.nan] * len(table)))
    pyarrow.parquet.write_table(table, path)
    weights = {NAMES[0]: 0.5, NAMES[1]: 0.0, NAMES[2]: 0.5}
    assert read(artefacts, weights=weights).batch([0], CPU).margin_rewards.chosen.tolist() == [[11.1, 0.0, 31.1]]


def test_a_regression_trains_on_each_comparison_once(artefacts: tuple[Path, Path, Path]) -> None:
    """p6 compares the responses of p1 for another objective, and the other way round; p7 is a second draw of p1."""
    path = artefacts[0] / "pairs.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    first = rows[0]
    swapped = {"chosen_ids": first["rejected_ids"], "rejected_ids": first["chosen_ids"]}
    rows += [{**first, **swapped, "pair_id": "p6", "objective": "brief"}, {**first, "pair_id": "p7"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    for folder in artefacts[1:]:
        table = pyarrow.parquet.read_table(folder / "table.parquet").to_pylist()
        again = [{**table[0], "pair_id": name} for name in ("p6", "p7")]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table + again), folder / "table.parquet")
    assert [pair.pair_id for pair in read(artefacts, "vivid", "brief").pairs] == ["p1", "p3", "p7", "p2"]


def test_a_row_has_each_prompt_once_with_chosen_and_rejected_in_turn(artefacts: tuple[Path, Path, Path]) -> None:
    trees = read(artefacts).batch([0, 1], CPU).trees
    assert trees.input_ids.tolist() == [[11, 21, 2, 31, 31, 2, 13, 23, 2, 33, 31, 2]]
    assert trees.position_ids.tolist() == [[0, 1, 2, 1, 2, 3, 0, 1, 2, 1, 2, 3]]
    assert trees.targets.tolist() == [21, 2, 31, 31, 2, 23, 2, 33, 31, 2]
    assert trees.owners.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert trees.predictors.tolist() == [0, 1, 0, 3, 4, 6, 7, 6, 9, 10]


def test_pairs_of_one_prompt_share_it(artefacts: tuple[Path, Path, Path]) -> None:
    trees = read(artefacts).batch([0, 0], CPU).trees
    assert trees.input_ids.tolist() == [[11, 21, 2, 31, 31, 2, 21, 2, 31, 31, 2]]
    assert trees.num_responses == 4


def test_plain_dpo_has_no_margin_and_needs_no_rewards(artefacts: tuple[Path, Path, Path]) -> None:
    batch = read(artefacts, with_rewards=False).batch([0, 1], CPU)
    assert torch.equal(batch.margin_rewards.gap, torch.zeros(2, 3, dtype=torch.float64))
    assert batch.reference.chosen.tolist() == [-1.1, -3.1]


def test_a_pair_without_annotation_is_refused(artefacts: tuple[Path, Path, Path]) -> None:
    table = pyarrow.parquet.read_table(artefacts[1] / "table.parquet")
    pyarrow.parquet.write_table(table.slice(0, 2), artefacts[1] / "table.parquet")
    with pytest.raises(InternalError, match="first missing: p1"):
        read(artefacts)


def test_texts_to_imitate() -> None:
    texts = [ResponseText((5,), (6, 2)), ResponseText((7, 8), (9, 9, 2))]
    batch = text_batch(texts, [1, 0], CPU)
    assert batch.input_ids.tolist() == [[7, 8, 9, 9, 2, 5, 6, 2]]
    assert batch.targets.tolist() == [9, 9, 2, 6, 2]
