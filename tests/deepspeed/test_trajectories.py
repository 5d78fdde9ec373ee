"""One global batch gives one trajectory, however it is split and whatever else does not change the numbers.

tests/deepspeed/test_cells.py has every ZeRO stage, precision, offload and world size.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modpo.training.engine import DeepSpeedEngine
from modpo.training.step import TrainEngine
from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.deepspeed.bare_loop import bare_training
from tests.deepspeed.trainings import (
    KINDS,
    LORA,
    STAGES,
    Outcome,
    sweep_config,
    train_to_end,
    worst_relative,
)

Trajectory = Callable[[str, int], Outcome]

TOLERANCE = 1e-5


def hold_same(accept: Accept, found: list[float], expected: list[float], what: str) -> None:
    accept("D3", f"relative difference of the {what}", worst_relative(found, expected), at_most=TOLERANCE)


# With all weight on the primary objective the margin vanishes, and what the bare loop writes out is plain DPO.
@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, 0.0)], ids=["modpo", "dpo"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_trains_like_a_bare_torch_loop(
    run_dir: Path, tmp_path: Path, accept: Accept, kind: str, weights: tuple[float, ...]
):
    unclipped = sweep_config(run_dir, lora=KINDS[kind], weight_decay=0.1, max_grad_norm=1e6)
    limit = statistics.median(bare_training(run_dir, unclipped, weights=weights).grad_norms)
    config = sweep_config(run_dir, lora=KINDS[kind], weight_decay=0.1, max_grad_norm=limit)
    bare = bare_training(run_dir, config, weights=weights)
    outcome = train_to_end(run_dir, config, tmp_path, weights=weights)
    hold_same(accept, outcome.losses, bare.losses, "losses")
    hold_same(accept, outcome.grad_norms, bare.grad_norms, "gradient norms")
    assert max(bare.grad_norms) > limit > min(bare.grad_norms), "some steps must be clipped, and some not"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_four_micro_batches_give_the_losses_of_one(
    run_dir: Path, tmp_path: Path, trajectory: Trajectory, accept: Accept, kind: str, stage: int
):
    config = sweep_config(
        run_dir,
        lora=KINDS[kind],
        deepspeed={"stage": stage},
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    outcome, plain = train_to_end(run_dir, config, tmp_path), trajectory(kind, 0)
    hold_same(accept, outcome.losses, plain.losses, "losses")
    hold_same(accept, outcome.grad_norms, plain.grad_norms, "gradient norms")


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_loss(
    run_dir: Path, tmp_path: Path, trajectory: Trajectory, accept: Accept, kind: str, stage: int
):
    recomputed: list[bool] = []

    def look(engine: TrainEngine) -> None:
        recomputed.extend(
            module.gradient_checkpointing
            for module in engine.module.modules()
            if hasattr(module, "gradient_checkpointing")
        )

    config = sweep_config(run_dir, lora=KINDS[kind], deepspeed={"stage": stage}, gradient_checkpointing=True)
    outcome = train_to_end(run_dir, config, tmp_path, look=look)
    assert any(recomputed)
    hold_same(accept, outcome.losses, trajectory(kind, stage).losses, "losses")


@pytest.mark.parametrize(
    ("stage", "offload"),
    [(1, {"optimizer": True}), (2, {"optimizer": True}), (3, {"optimizer": True, "parameters": True})],
)
@pytest.mark.parametrize("kind", KINDS)
def test_offload_steps_with_the_same_optimiser(
    run_dir: Path, tmp_path: Path, kind: str, stage: int, offload: dict[str, bool]
):
    """DeepSpeed would rather compile an AdamW of its own for offloaded states."""
    kinds: list[type] = []

    def look(engine: TrainEngine) -> None:
        assert isinstance(engine, DeepSpeedEngine)
        kinds.append(type(engine._inner_optimizer()))

    config = sweep_config(run_dir, lora=KINDS[kind], deepspeed={"stage": stage, "offload": offload}, max_steps=1)
    train_to_end(run_dir, config, tmp_path, look=look)
    assert kinds == [torch.optim.AdamW]


def test_a_deepspeed_file_sets_the_stage_but_not_what_the_sweep_file_says(
    run_dir: Path, tmp_path: Path, trajectory: Trajectory
):
    file = tmp_path / "deepspeed.json"
    theirs = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 7,
        "gradient_clipping": 1e-4,
        "fp16": {"enabled": True},
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "SGD", "params": {"lr": 1.0}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1.0}},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "allgather_bucket_size": 1000},
    }
    file.write_text(json.dumps(theirs), encoding="utf-8")
    seen: list[object] = []

    def look(engine: TrainEngine) -> None:
        assert isinstance(engine, DeepSpeedEngine)
        inner = engine._engine
        seen.extend([inner.zero_optimization_stage(), inner.zero_allgather_bucket_size(), inner.fp16_enabled()])

    config = sweep_config(run_dir, lora=LORA, deepspeed={"stage": 0, "config_file": str(file)})
    outcome = train_to_end(run_dir, config, tmp_path / "checkpoints", look=look)
    assert seen == [2, 1000, False]
    expected = trajectory("lora", 2)
    assert outcome.losses == expected.losses
    assert differing(outcome.parameters, expected.parameters) == 0


def test_nothing_was_compiled(two_workers: Path, trajectory: Trajectory, extensions_dir: Path):
    for stage in STAGES:
        trajectory("lora", stage)
    assert list((two_workers / "torch-extensions").iterdir()) == []
    assert list(extensions_dir.iterdir()) == []
