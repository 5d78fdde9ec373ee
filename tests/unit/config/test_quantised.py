"""Models in 4 bits: what is refused, with the whole message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpo.config import parse_config
from modpo.config.checks import check_config
from modpo.config.quantised import no_gpu, not_installed
from tests.sweeps import raw_sweep


def messages(**sections: Any) -> list[str]:
    """What is wrong with the small sweep on a model in 4 bits."""
    raw = raw_sweep(**sections)
    raw["model"] = {"name_or_path": "demo:model", "load_in_4bit": True, **sections.get("model", {})}
    return [problem.render() for problem in check_config(parse_config(raw))]


def test_an_adapter_under_plain_deepspeed_or_zero_1_and_2() -> None:
    for stage in (0, 1, 2):
        assert messages(training={"deepspeed": {"stage": stage}}) == []
    assert messages(sft={"lora": {}}) == []


def test_all_weights() -> None:
    assert messages(model={"lora": None}) == [
        "error[MS-157]: weights in 4 bits cannot be trained\n"
        "  --> model.load_in_4bit\n"
        "  got: lora: null, which trains all weights\n"
        "  wanted: an adapter on the frozen weights\n"
        "  help: give model.lora, or set model.load_in_4bit to false"
    ]


def test_supervised_fine_tuning_of_all_weights() -> None:
    assert messages(sft={}) == [
        "error[MS-158]: supervised fine-tuning cannot train weights in 4 bits\n"
        "  --> sft.lora\n"
        "  got: null, which trains all weights\n"
        "  wanted: an adapter, which is merged into the unquantised model afterwards\n"
        "  help: give sft.lora, or fine-tune in another run and name its start model"
    ]


def partitioned(where: str) -> str:
    return (
        "error[MS-159]: ZeRO 3 cannot partition weights in 4 bits\n"
        f"  --> {where}\n"
        "  got: stage 3\n"
        "  wanted: stage 0, 1 or 2\n"
        "  help: lower the stage: the frozen weights are a quarter of their size in 16 bits, and only an adapter trains"
    )


def test_zero_3() -> None:
    three = {"deepspeed": {"stage": 3}}
    assert messages(training=three) == [partitioned("training.deepspeed.stage")]
    assert messages(sft={"lora": {}, **three}) == [partitioned("sft.deepspeed.stage")]


@pytest.mark.parametrize(("stage", "refused"), [(2, False), (3, True), ("auto", False)])
def test_zero_3_of_a_deepspeed_file(tmp_path: Path, stage: int | str, refused: bool) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    expected = [partitioned("training.deepspeed.config_file")] if refused else []
    assert messages(training={"deepspeed": {"config_file": str(path)}}) == expected


def test_nothing_of_this_is_asked_of_other_models() -> None:
    wide = {"lora": None, "load_in_4bit": False}
    assert messages(model=wide, sft={}, training={"deepspeed": {"stage": 3}}) == []


def test_machines_that_cannot() -> None:
    assert no_gpu().render() == (
        "error[MS-403]: models in 4 bits train on GPUs only\n"
        "  --> model.load_in_4bit\n"
        "  got: workers without a GPU\n"
        "  wanted: one for each: on some processors, what bitsandbytes multiplies after an evaluation has no gradient\n"
        "  help: run on machines with GPUs (resources.gpus_per_worker above 0), or set model.load_in_4bit to false"
    )
    assert not_installed().render() == (
        "error[MS-404]: models in 4 bits need the package bitsandbytes\n"
        "  --> model.load_in_4bit\n"
        "  got: not installed\n"
        "  wanted: bitsandbytes on every machine that has workers\n"
        "  help: pip install 'modpo[quantization]', or set model.load_in_4bit to false"
    )
