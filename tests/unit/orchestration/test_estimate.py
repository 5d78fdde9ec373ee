"""Storage, hours and price before the start, by hand."""

from __future__ import annotations

import pytest

from modpo.config import parse_config
from modpo.core.memory import ModelTensors
from modpo.orchestration.estimate import from_flops, from_measured, step_flops, storage_bytes
from tests.sweeps import raw_sweep

MILLION = 10**6
ADAPTER = ModelTensors((2 * MILLION,), (100 * MILLION,), 0, 2, 4, hidden=1, inner=1, layers=1)
WHOLE = ModelTensors((100 * MILLION,), (), 0, 2, 2, hidden=1, inner=1, layers=1)


def test_storage_of_adapters_and_of_whole_models() -> None:
    """5 points. An adapter's final weights are 8 MB, its two checkpoints 48 MB; a model's 200 MB and 2.4 GB."""
    config = parse_config(raw_sweep(sft={}))
    adapter, whole = (
        storage_bytes(config, tensors, num_points=5, num_pairs=1000, pair_tokens=300) for tensors in (ADAPTER, WHOLE)
    )
    assert adapter["trained weights"] == 5 * 8 * MILLION and whole["trained weights"] == 5 * 200 * MILLION
    assert adapter["checkpoints, 2 a point"] == 5 * 48 * MILLION
    assert whole["checkpoints, 2 a point"] == 5 * 2400 * MILLION
    assert whole["start model"] == 200 * MILLION and adapter["start model"] == 204 * MILLION
    # 300 tokens of 12 bytes, and of three log-probabilities and rewards of both sides 8 bytes twice.
    assert adapter["pairs and their annotation"] == 1000 * (3600 + 96)
    # 128 prompts, 4 samples of at most 256 tokens.
    assert adapter["samples of the evaluations"] == 5 * 128 * 4 * 256 * 12


def test_operations_of_a_step() -> None:
    """Six a weight and token where all are trained; four of a frozen one."""
    assert step_flops(WHOLE, 10) == 6 * 100 * MILLION * 10
    assert step_flops(ADAPTER, 10) == (4 * 100 + 6 * 2) * MILLION * 10


def test_hours_from_operations_say_so() -> None:
    """1000 steps of 1e6 tokens are 6e17 operations: at 30 % of 1e15 a second, 2000 s."""
    found = from_flops(WHOLE, steps=1000, step_tokens=1e6, peak=1e15, device="H100")
    assert found.hours == pytest.approx(2000 / 3600)
    assert found.source == "from operations, at 30% of the 1e+03 TFLOP/s of H100"


def test_hours_from_measured_steps_come_first() -> None:
    """40 steps took 100 device seconds: 2.5 s a step."""
    assert from_measured([], steps=720) is None
    found = from_measured([(10, 40.0), (30, 60.0)], steps=720)
    assert found is not None
    assert (found.hours, found.source) == (pytest.approx(0.5), "measured in 40 steps of this run")
