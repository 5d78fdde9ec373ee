"""What keeps points from being trained together, and that asking for it nevertheless is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modpo.config import parse_config
from modpo.config.checks import check_config
from modpo.config.together import alone_because
from tests.sweeps import raw_sweep


def swept(*, model: dict[str, Any] | None = None, together: Any = "auto", **training: Any) -> Any:
    small = raw_sweep()["model"]
    return parse_config(
        raw_sweep(model={**small, **(model or {})}, training=training, resources={"points_together": together})
    )


def test_adapters_can_be_trained_together() -> None:
    assert alone_because(swept()) is None
    assert check_config(swept(together=4)) == []


def test_layers_of_4_bits_are_not_those_that_can_be_stacked() -> None:
    in_4_bits = {"load_in_4bit": True, "dtype": "bfloat16"}
    assert alone_because(swept(model=in_4_bits)) == "the frozen weights are in 4 bits (model.load_in_4bit)"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": {"lora": None}}, "all weights are trained (model.lora is null)"),
        ({"model": {"lora": {"lora_dropout": 0.1}}}, "the adapters have dropout (model.lora.lora_dropout)"),
        ({"deepspeed": {"stage": 1}}, "the weights are partitioned (training.deepspeed.stage)"),
        ({"early_stopping": {}}, "points may end early (training.early_stopping)"),
    ],
)
class TestAlone:
    def test_the_reason(self, settings: dict[str, Any], reason: str) -> None:
        assert alone_because(swept(**settings)) == reason
        assert check_config(swept(**settings)) == []
        assert check_config(swept(together=1, **settings)) == []

    def test_asked_for_nevertheless(self, settings: dict[str, Any], reason: str) -> None:
        (problem,) = check_config(swept(together=3, **settings))
        assert (problem.code, problem.where) == ("MS-160", "resources.points_together")
        assert problem.got == f"3, and {reason}"
