"""The memory that `modpo plan` names is the memory that DeepSpeed takes: every byte of it is counted."""

from __future__ import annotations

import json

import pytest

from tests.deepspeed.held import held_and_expected
from tests.deepspeed.pair import Pair
from tests.deepspeed.trainings import STAGES

DTYPES = ("float32", "bfloat16")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_worker(one_worker: None, kind: str, dtype: str, stage: int):
    held, least, most = held_and_expected(kind, dtype, stage)
    assert least <= held <= most


@pytest.mark.parametrize("stage", [pytest.param(3), *(pytest.param(s, marks=pytest.mark.slow) for s in (0, 1, 2))])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_each_of_two_workers(pair: Pair, kind: str, dtype: str, stage: int):
    folder = pair.do("memory", kind, dtype, str(stage))
    for rank in (0, 1):
        text = (folder / f"memory-{kind}-{dtype}-{stage}-{rank}.json").read_text(encoding="utf-8")
        held, least, most = json.loads(text)
        assert least <= held <= most, f"rank {rank}"
