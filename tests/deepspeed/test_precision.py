"""bfloat16: adapters stay float32, trained weights keep a float32 master, and the step-0 check has its own bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modpo.config import SweepConfig
from modpo.errors import InternalError
from modpo.models import load_model
from modpo.training.engine import DeepSpeedEngine
from modpo.training.point import LOGPS_TOLERANCE_PER_TOKEN, check_reference
from modpo.training.step import TrainEngine
from tests.deepspeed.bare_loop import bare_training
from tests.deepspeed.trainings import (
    KINDS,
    LORA,
    STAGES,
    annotated_pairs,
    build_engine,
    measured_gap,
    point_work,
    sweep_config,
    train_to_end,
    worst_relative,
)


@pytest.mark.parametrize("stage", STAGES)
def test_adapters_stay_float32_on_a_bfloat16_base(run_dir: Path, tmp_path: Path, stage: int):
    """One step on the same numbers; later ones part where a bfloat16 activation is rounded up instead of down."""
    config = sweep_config(run_dir, dtype="bfloat16", lora=LORA, deepspeed={"stage": stage}, max_steps=1)
    dtypes: set[tuple[bool, torch.dtype]] = set()

    def look(engine: TrainEngine) -> None:
        assert isinstance(engine, DeepSpeedEngine)
        assert not engine._engine.bfloat16_enabled()
        dtypes.update((parameter.requires_grad, parameter.dtype) for parameter in engine.module.parameters())

    outcome, bare = train_to_end(run_dir, config, tmp_path, look=look), bare_training(run_dir, config)
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    assert worst_relative(outcome.losses, bare.losses) <= 1e-6
    assert_same_step(config, outcome.parameters, bare.parameters)


@pytest.mark.parametrize("stage", STAGES)
def test_float32_masters_of_bfloat16_weights_take_the_step_of_adamw(run_dir: Path, tmp_path: Path, stage: int):
    """DeepSpeed's optimiser for ZeRO 0 takes an empty step when it is built.

    Uncorrected, that step counts in the bias correction and makes the first real one a quarter too short, and it
    decays the weights.
    """
    config = sweep_config(
        run_dir, dtype="bfloat16", lora=None, deepspeed={"stage": stage}, max_steps=1, weight_decay=1.0
    )
    outcome, bare = train_to_end(run_dir, config, tmp_path), bare_training(run_dir, config)
    assert worst_relative(outcome.losses, bare.losses) <= 1e-6
    assert_same_step(config, outcome.parameters, bare.parameters)


def assert_same_step(config: SweepConfig, values: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Every weight within a thousandth of the length of the step, which is half the peak rate at the only step."""
    rate = config.training.learning_rate / 2
    assert values.keys() == expected.keys()
    for name, master in expected.items():
        assert values[name].dtype == torch.float32
        torch.testing.assert_close(values[name], master.detach(), rtol=0, atol=1e-3 * rate)


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_model_reproduces_its_reference_table(
    run_dir: Path, tmp_path: Path, dtype: str, kind: str, stage: int
):
    """The table was scored in batches of 32 sorted by length, the policy is in batches as they are trained on."""
    config = sweep_config(run_dir, dtype=dtype, lora=KINDS[kind], deepspeed={"stage": stage})
    gap = measured_gap(run_dir, config, tmp_path / "reference", start_model=run_dir / "start")
    assert gap <= LOGPS_TOLERANCE_PER_TOKEN[dtype] / 10, "the tolerance promises a margin of ten"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_table_of_another_model_is_refused(run_dir: Path, tmp_path: Path, dtype: str):
    """The other model is the start model with its output layer turned by one part in ten, so a near miss."""
    config = sweep_config(run_dir, dtype=dtype, lora=LORA)
    other = load_model(config.model, path=str(run_dir / "start"))
    with torch.no_grad():
        other.lm_head.weight.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InternalError, match="MS-602"):
        measured_gap(run_dir, config, tmp_path / "reference", start_model=tmp_path / "other")


def test_the_trials_of_a_sweep_look_at_different_pairs_of_their_table(run_dir: Path) -> None:
    """One number of the table is wrong, behind the first micro-batch: some trial must see it, and say so."""
    config = sweep_config(run_dir, lora=LORA)
    data = annotated_pairs(run_dir, point_work(run_dir, config))
    records = data.table.records.copy()
    wrong = data.rows[-1]
    records["reference_logps"][wrong, 0] += 1.0
    damaged = replace(data, table=replace(data.table, records=records))
    engine = build_engine(config, str(run_dir / "start"), seed=0)
    found = 0
    try:
        for number in range(40):
            try:
                check_reference(engine, damaged, config, draw=f"trial-{number}")
            except InternalError:
                found += 1
            check_reference(engine, data, config, draw=f"trial-{number}")
    finally:
        engine.close()
    assert 0 < found < 40
