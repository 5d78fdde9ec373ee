"""The prepared artefact of the demo world: split by prompt, tokens of the texts, everything dropped is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from modpo.artifacts import is_valid, read_json
from modpo.config import SweepConfig
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared
from modpo.data.prepared import read_columns, read_held_out, read_pairs, read_sft
from modpo.data.tokenize import load_tokenizer
from modpo.errors import InputError, InternalError
from modpo.models import load_model
from modpo.scoring import ResponseModel, completion_logps
from tests.acceptance.plugin import Accept
from tests.sweeps import world_sweep


def prepare(folder: Path, world: Path, config: SweepConfig) -> dict[str, Any]:
    return write_prepared(folder, config, load_data(config), model_path=str(world / "model"))


@pytest.fixture(scope="module")
def prepared(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepare") / "prepared"
    prepare(folder, demo_world, world_sweep(demo_world, sft={}))
    return folder


def raw_rows(prepared: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(prepared / "pairs.parquet").to_pylist()
    return rows


def test_artefact_is_whole_and_says_what_it_is(prepared: Path) -> None:
    assert is_valid(prepared)
    manifest = read_json(prepared / "manifest.json")
    assert manifest["stage"] == "prepared"
    assert set(manifest["files"]) >= {"pairs.parquet", "prompts.parquet", "sft.parquet", "counts.json"}
    assert manifest["counts"] == read_json(prepared / "counts.json")


def test_every_row_of_every_objective_is_there_once(prepared: Path, demo_world: Path) -> None:
    for name in ("vivid", "brief"):
        rows = [json.loads(line) for line in (demo_world / f"{name}.jsonl").read_text().splitlines()]
        stored = [(p.prompt, p.chosen, p.rejected) for p in read_pairs(prepared, objective=name)]
        assert stored == [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
        assert read_json(prepared / "counts.json")[name]["pairs"] == len(rows)
    ids = [pair.pair_id for pair in read_pairs(prepared)]
    assert len(set(ids)) == len(ids)


def test_no_prompt_is_on_both_sides(prepared: Path) -> None:
    train, held_out = ({p.prompt for p in read_pairs(prepared, split=split)} for split in ("train", "eval"))
    assert train and held_out
    assert not train & held_out
    assert {prompt.prompt for prompt in read_held_out(prepared, limit=1000)} == held_out


def test_tokens_are_those_of_the_texts(prepared: Path) -> None:
    tokenizer = load_tokenizer(str(prepared / "tokenizer"))
    for pair in read_pairs(prepared):
        assert tokenizer.decode(pair.prompt_ids) == pair.prompt
        for text, tokens in ((pair.chosen, pair.chosen_ids), (pair.rejected, pair.rejected_ids)):
            assert tokenizer.decode(tokens) == f"{text} </s>"


def test_held_out_prompts_are_ready_to_generate_from(prepared: Path) -> None:
    tokenizer = load_tokenizer(str(prepared / "tokenizer"))
    prompts = read_held_out(prepared, limit=2)
    assert len(prompts) == 2
    assert [tokenizer.decode(prompt.prompt_ids) for prompt in prompts] == [prompt.prompt for prompt in prompts]
    assert read_held_out(prepared, limit=1) == prompts[:1]


def test_texts_to_imitate_are_the_distinct_chosen_responses_of_training_prompts(
    demo_world: Path, tmp_path: Path
) -> None:
    """Every row is there twice: two pairs, one text."""
    for name in ("vivid", "brief"):
        (tmp_path / f"{name}.jsonl").write_text((demo_world / f"{name}.jsonl").read_text() * 2)
    (tmp_path / "model").symlink_to(demo_world / "model")
    counts = prepare(tmp_path / "twice", tmp_path, world_sweep(tmp_path, sft={}))
    train = read_pairs(tmp_path / "twice", split="train")
    expected = {(pair.prompt_ids, pair.chosen_ids) for pair in train}
    texts = [(text.prompt_ids, text.response_ids) for text in read_sft(tmp_path / "twice")]
    assert set(texts) == expected
    assert len(texts) == len(expected) <= len(train) / 2
    assert counts["sft"]["rows"] == len(texts) + counts["sft"]["held_out"]
    assert counts["sft"]["too_long"] == 0


def test_texts_without_content_are_counted_where_they_may_be_dropped(demo_world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "the fox", "response": "leaps ."}, {"prompt": "the owl", "response": " "}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = world_sweep(
        demo_world, data={"unusable_rows": "drop"}, sft={"data": {"path": str(tmp_path / "texts.jsonl")}}
    )
    counts = prepare(tmp_path / "prepared", demo_world, config)["sft"]
    assert counts == {"rows": 1, "unusable": 1, "held_out": 0, "too_long": 0}


def test_split_does_not_depend_on_the_order_of_the_rows(prepared: Path, demo_world: Path, tmp_path: Path) -> None:
    for name in ("vivid", "brief"):
        rows = (demo_world / f"{name}.jsonl").read_text().splitlines()
        (tmp_path / f"{name}.jsonl").write_text("\n".join(reversed(rows)))
    (tmp_path / "model").symlink_to(demo_world / "model")
    prepare(tmp_path / "again", tmp_path, world_sweep(tmp_path))
    sides = [{row["pair_id"]: row["split"] for row in raw_rows(folder)} for folder in (prepared, tmp_path / "again")]
    assert sides[0] == sides[1]


def test_long_pairs_are_dropped_and_counted(prepared: Path, demo_world: Path, tmp_path: Path) -> None:
    limit = 16
    lengths = [
        len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in read_pairs(prepared)
    ]
    num_long = sum(length > limit for length in lengths)
    assert 0 < num_long < len(lengths)
    counts = prepare(tmp_path / "short", demo_world, world_sweep(demo_world, data={"max_length": limit}, sft={}))
    kept = read_pairs(tmp_path / "short")
    too_long = [counts[name]["too_long"] for name in ("vivid", "brief")]
    assert sum(too_long) == num_long == len(lengths) - len(kept)
    assert all(len(text.prompt_ids) + len(text.response_ids) <= limit for text in read_sft(tmp_path / "short"))


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_every_row_is_kept_or_counted_and_what_is_kept_can_be_scored(
    demo_world: Path, tmp_path: Path, too_long: str, accept: Accept
) -> None:
    """Empty responses, equal ones and texts beyond the limit among good rows; the prompt of one fills it alone."""
    prompt, long = "Tell me about the fox at dawn .", "the fox rests . " * 12
    odd = [(prompt, "", "the fox ."), (prompt, "the fox .", " "), (prompt, "the fox .", "the fox .")]
    odd += [(prompt, long, "the fox ."), (prompt, long, long + "the"), (long, "the fox .", "the owl .")]
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in odd]
    for name in ("vivid", "brief"):
        written = (demo_world / f"{name}.jsonl").read_text() + "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(written)
    (tmp_path / "model").symlink_to(demo_world / "model")
    config = world_sweep(tmp_path, data={"max_length": 40, "too_long": too_long, "unusable_rows": "drop"})
    counts, kept = prepare(tmp_path / "prepared", tmp_path, config), read_pairs(tmp_path / "prepared")
    read = sum(counts[name]["rows"] for name in config.objective_names)
    dropped = sum(counts[name][kind] for name in config.objective_names for kind in ("unusable", "too_long"))
    cut = sum(counts[name]["truncated"] for name in config.objective_names)
    accept("C6", "rows that are neither kept nor counted", read - dropped - len(kept), at_most=0)
    assert dropped == (12 if too_long == "drop" else 10)
    assert cut == sum(pair.chosen_ids[-1] != pair.rejected_ids[-1] for pair in kept) == (0 if too_long == "drop" else 2)
    model = ResponseModel(load_model(config.model), longest=config.longest_sequence)
    prompts = [pair.prompt_ids for pair in kept for _ in range(2)]
    responses = [side for pair in kept for side in (pair.chosen_ids, pair.rejected_ids)]
    assert all(prompts) and all(responses)
    infinite = np.count_nonzero(~np.isfinite(completion_logps(model, prompts, responses, batch_size=32)))
    accept("C6", "log-probabilities of kept responses that are not finite", infinite, at_most=0)


def test_nothing_left_within_the_limit(demo_world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "none", demo_world, world_sweep(demo_world, data={"max_length": 8}))
    assert [(p.code, p.where, p.got) for p in caught.value.problems] == [
        ("MS-223", "data.max_length", "max_length 8")
    ] * 2
    assert [p.what for p in caught.value.problems] == [
        f"objective {name!r} has no training pairs within data.max_length" for name in ("vivid", "brief")
    ]
    assert list(tmp_path.iterdir()) == []


class TestColumns:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        pyarrow.parquet.write_table(
            pyarrow.table({"pair_id": ["a", "b", "c"], "x": [1.5, 2.5, 3.5], "y": [1, 2, 3]}),
            tmp_path / "table.parquet",
        )
        return tmp_path

    def test_values_come_in_the_order_asked_for(self, table: Path) -> None:
        columns = read_columns(table, ["c", "a", "c"], ("y", "x"))
        assert {name: values.tolist() for name, values in columns.items()} == {"y": [3, 1, 3], "x": [3.5, 1.5, 3.5]}
        assert columns["y"].dtype == np.float64

    def test_missing_rows_are_named(self, table: Path) -> None:
        with pytest.raises(InternalError) as caught:
            read_columns(table, ["a", "d", "e"], ("x",))
        (problem,) = caught.value.problems
        assert (problem.code, problem.got) == ("MS-601", "first missing: d, e")
        assert problem.what == f"the {table.name} table lacks 2 of 3 rows"


def test_chat_prompts_come_back_as_messages(tmp_path: Path) -> None:
    """Stored as (role, content) lists; reward functions get the messages they know."""
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": [json.dumps([["user", "Hi"]]), json.dumps("Hi")], "prompt_ids": [[1], [2]]}),
        tmp_path / "prompts.parquet",
    )
    first, second = read_held_out(tmp_path, limit=5)
    assert first.prompt == [{"role": "user", "content": "Hi"}]
    assert second.prompt == "Hi"
