"""The pair table: numbers that mean what they say, in files that are mapped and not read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from modpo.data.pair_table import (
    RECORD,
    TOKENS,
    open_margin_rewards,
    open_pair_table,
    write_margin_rewards,
    write_pair_table,
)
from modpo.errors import InternalError


def pair(objective: str, split: str, prompt: Any, prompt_ids: list[int], chosen: list[int], rejected: list[int]) -> Any:
    return {
        "pair_id": "x",
        "objective": objective,
        "split": split,
        "prompt": json.dumps(prompt),
        "chosen": "c",
        "rejected": "r",
        "prompt_ids": prompt_ids,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
    }


PAIRS = [
    pair("b", "train", "one", [1, 2], [3], [4, 5, 6]),
    pair("a", "eval", [["user", "two"]], [7], [8, 9], [10]),
    pair("b", "train", "one", [1, 2], [4, 5, 6], [3]),
    # The same tokens in one row, cut at other places.
    pair("a", "train", "one", [1], [2, 3], [4, 5, 6]),
    pair("b", "eval", [["user", "two"]], [7], [8, 9], [2**31 - 1]),
]
LOGPS = np.arange(10.0).reshape(5, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), tmp_path / "pairs.parquet")
    write_pair_table(tmp_path, tmp_path, LOGPS)
    return tmp_path


def test_trees_have_the_tokens_of_their_own_pairs(folder: Path) -> None:
    trees = open_pair_table(folder).trees(np.array([4, 0, 1, 2, 3]))
    assert [[list(tree.prompt_ids), *map(list, tree.response_ids)] for tree in trees] == [
        [PAIRS[row]["prompt_ids"], PAIRS[row]["chosen_ids"], PAIRS[row]["rejected_ids"]] for row in (4, 0, 1, 2, 3)
    ]
    assert all(type(token) is int for token in trees[0].prompt_ids)


def test_records_number_what_is_equal(folder: Path) -> None:
    table = open_pair_table(folder)
    assert [table.objectives[number] for number in table.records["objective"]] == ["b", "a", "b", "a", "b"]
    assert table.records["prompt"].tolist() == [0, 1, 0, 0, 1]
    assert table.records["comparison"].tolist() == [0, 1, 0, 2, 3]
    assert table.records["held_out"].tolist() == [False, True, False, False, True]
    assert table.records["lengths"].tolist() == [[2, 1, 3], [1, 2, 1], [2, 3, 1], [1, 2, 3], [1, 2, 1]]
    assert np.array_equal(table.records["reference_logps"], LOGPS)


def test_rows_of_each_split(folder: Path) -> None:
    table = open_pair_table(folder)
    assert table.training_rows(["b"]).tolist() == [0, 2]
    assert table.training_rows(["b", "a"]).tolist() == [0, 2, 3]
    assert table.training_rows(["a", "b"]).tolist() == [3, 0, 2]
    assert table.held_out_rows().tolist() == [1, 4]


def test_batches_of_the_file_make_no_difference(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path_factory.mktemp("again")
    monkeypatch.setattr("modpo.data.pair_table.BATCH_ROWS", 2)
    write_pair_table(again, folder, LOGPS)
    for path in again.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_record_has_no_gaps() -> None:
    """48 bytes a pair, each field where a processor wants it."""
    assert RECORD.itemsize == 48


def test_a_file_that_was_cut_short_is_refused(folder: Path) -> None:
    os.truncate(folder / TOKENS, 4 * 20)
    with pytest.raises(InternalError) as caught:
        open_pair_table(folder)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where, problem.got, problem.wanted) == (
        "MS-603",
        str(folder),
        f"20 entries in {TOKENS}",
        "26 entries",
    )


def test_the_files_are_mapped_and_no_text_is_read(folder: Path) -> None:
    """Nothing of the table's size is this process's own: records, tokens and rewards are pages of the files."""
    write_margin_rewards(folder, "a", LOGPS)
    (folder / "pairs.parquet").unlink()
    table, rewards = open_pair_table(folder), open_margin_rewards(folder, "a", num_pairs=len(PAIRS))
    assert np.array_equal(rewards, LOGPS)
    assert not any(array.flags.owndata or array.flags.writeable for array in (table.records, table.tokens, rewards))
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    mapped = {Path(line.split()[-1]).name for line in lines if str(folder) in line}
    assert mapped == {"pairs.npy", "tokens.int32", "rewards_a.npy"}
