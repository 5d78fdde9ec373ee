"""What does not fit is refused in numbers, with the mildest change that would fit: counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from modpo.config import parse_config
from modpo.config.tree import SweepConfig
from modpo.core.memory import ModelTensors
from modpo.orchestration.fit import GIB, check_device_memory, check_disk, memory_by_stage, warn_of_activations
from tests.sweeps import raw_sweep


def sweep(*, workers: int = 8, lora: bool = False, **training: Any) -> SweepConfig:
    raw = raw_sweep(resources={"num_workers": workers}, training=training, data={"max_length": 512})
    raw["model"] |= {"lora": {} if lora else None, "dtype": "bfloat16"}
    return parse_config(raw)


def billions(number: float, *, adapter: float = 0) -> ModelTensors:
    """A model in bfloat16 of so many billions of weights, all trained, or frozen below an adapter."""
    weights = (int(number * GIB),)
    return ModelTensors(
        trained=(int(adapter * GIB),) if adapter else weights,
        frozen=weights if adapter else (),
        quantised=0,
        dtype_bytes=2,
        trained_bytes=4 if adapter else 2,
        hidden=2048,
        inner=8192,
        layers=24,
    )


@pytest.mark.parametrize(
    ("device_gib", "remedy"),
    [
        # Of 4 billion weights on 8 ranks: 64 GiB at stage 0; 30 at stage 1, 15 at stage 2, 8 at stage 3. With the
        # optimiser on the host stage 2 needs 9, and stage 3 with everything offloaded the gradients alone, 1.
        (31, "set training.deepspeed.stage to 1"),
        (16, "set training.deepspeed.stage to 2"),
        (8.5, "set training.deepspeed.stage to 3"),
        (2, "set training.deepspeed to stage 3 with offload of optimizer and parameters"),
        (0.5, "train an adapter (model.lora), take more workers a trial under stage 3, or larger GPUs"),
    ],
)
def test_a_model_too_large_for_its_device_is_refused_with_what_would_fit(device_gib: float, remedy: str) -> None:
    (problem,) = check_device_memory(sweep(), billions(4), device_gib)
    assert (problem.code, problem.remedy) == ("MS-405", remedy)
    assert problem.got == "64.0 GiB of weights, gradients and optimiser at stage 0 with 8 worker(s)"
    assert problem.wanted == f"less than {device_gib:.1f} GiB"


def test_one_that_fits_is_not() -> None:
    assert list(check_device_memory(sweep(), billions(4), 64)) == []
    # 8 GiB frozen, and 16 bytes for each of 32 million numbers.
    assert list(check_device_memory(sweep(lora=True), billions(4, adapter=1 / 32), 8.5)) == []
    assert len(list(check_device_memory(sweep(lora=True), billions(4, adapter=1 / 32), 8.4))) == 1


def test_activations_that_may_not_fit_are_warned_of() -> None:
    """64 pairs of twice 512 tokens, through 24 layers of (26 x 2048 + 8 x 8192) bytes: 177 GiB; with checkpoints 13."""
    (sentence,) = warn_of_activations(sweep(per_device_train_batch_size=64), billions(1), 80)
    assert "the device has 80.0" in sentence and "training.gradient_checkpointing" in sentence
    saving = sweep(per_device_train_batch_size=64, gradient_checkpointing=True)
    assert list(warn_of_activations(saving, billions(1), 80)) == []


def test_every_stage_is_shown_whatever_the_sweep_takes() -> None:
    memory = memory_by_stage(sweep(deepspeed={"stage": 2}), billions(4))
    assert [round(of_stage.states / GIB, 1) for of_stage in memory.values()] == [64.0, 30.0, 15.0, 8.0]


def test_a_disk_too_small_is_refused() -> None:
    assert list(check_disk(GIB, GIB, where="runs")) == []
    (problem,) = check_disk(3 * GIB, GIB, where="runs")
    assert (problem.code, problem.got, problem.wanted) == ("MS-407", "1.0 GiB free", "about 3.0 GiB")
