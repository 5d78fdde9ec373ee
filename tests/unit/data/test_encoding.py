"""Tokens made by several workers are those of one, in the same order, and no more is queued than the workers need."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modpo.config.sources import DataConfig
from modpo.data import encoding
from modpo.data.encoding import Encoding, num_processes
from modpo.data.tokenize import Encoder, load_tokenizer

BATCH = 10
WORKERS = 2
ROWS = [(f"the fox {number}", f"leaps {number}", f"rests {number}") for number in range(95)]


@pytest.fixture
def encodings(demo_world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Encoding]]:
    """One that does the work itself, and one that gives it to others; threads stand in for processes."""
    data = DataConfig(template="{prompt}\n")
    encoder = Encoder(load_tokenizer(str(demo_world / "model")), data)
    monkeypatch.setattr(encoding, "BATCH_ITEMS", BATCH)
    monkeypatch.setattr(encoding, "_encoders", [])
    encoding._load_encoder(str(demo_world / "model"), None, data.model_dump_json())
    with ThreadPoolExecutor(WORKERS) as pool:
        yield [Encoding(encoder), Encoding(encoder, pool, WORKERS)]


def test_workers_make_the_same_tokens_in_the_same_order(encodings: list[Encoding]) -> None:
    own, others = (list(each.pairs(ROWS, lambda row: row)) for each in encodings)
    assert own == others
    assert [row for row, _ in own] == ROWS
    prompts = [prompt for prompt, _, _ in ROWS]
    own_prompts, other_prompts = (list(each.prompts(prompts)) for each in encodings)
    assert own_prompts == other_prompts
    assert [prompt for prompt, _ in own_prompts] == prompts


def test_a_fast_reader_does_not_queue_all_rows(encodings: list[Encoding]) -> None:
    """Two batches a worker wait at most, and one is on its way."""
    read = 0

    def rows() -> Iterator[tuple[str, str, str]]:
        nonlocal read
        for row in ROWS:
            read += 1
            yield row

    next(iter(encodings[1].pairs(rows(), lambda row: row)))
    assert read == (2 * WORKERS + 1) * BATCH


@pytest.mark.parametrize(("num_items", "num_proc", "expected"), [(10, None, 1), (10, 3, 3), (10**6, 1, 1)])
def test_small_data_starts_no_processes_unless_asked_to(num_items: int, num_proc: int | None, expected: int) -> None:
    assert num_processes(num_items, DataConfig(num_proc=num_proc)) == expected
