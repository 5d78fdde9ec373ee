"""A point with all weight on one objective is a DPO training: the same bits as with DPO's loss written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from modpo.config import SweepConfig
from modpo.ledger import final_dir
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from modpo.training.step import MicroBatch, MicroBatchResult
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import (
    BETA,
    DEVICE,
    KINDS,
    Outcome,
    annotated_pairs,
    point_work,
    sweep_config,
    train_to_end,
)

VERTICES = {"vivid": (1.0, 0.0), "brief": (0.0, 1.0)}


def dpo_training(run_dir: Path, config: SweepConfig, place: Path, *, weights: tuple[float, ...]) -> Outcome:
    """Engine, loop and rows of a point, with the loss of Rafailov et al. (arXiv 2305.18290, equation 7)."""
    data = annotated_pairs(run_dir, point_work(run_dir, config, weights=weights))

    def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
        batch = data.batch(rows, DEVICE)
        log_ratios = model(batch.trees) - torch.stack([batch.reference.chosen, batch.reference.rejected], 1).flatten()
        loss = -functional.logsigmoid(BETA * (log_ratios[0::2] - log_ratios[1::2])).mean()
        return MicroBatchResult(loss, {"loss": loss.detach()})

    def instead(_: MicroBatch) -> MicroBatch:
        return micro_batch

    return train_to_end(run_dir, config, place, weights=weights, micro_batch=instead)


@pytest.mark.parametrize("objective", VERTICES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_at_a_vertex_is_plain_dpo(run_dir: Path, tmp_path: Path, kind: str, objective: str, accept: Accept):
    """As the service trains it, from the annotation to the files, against the same engine with DPO's loss."""
    weights = VERTICES[objective]
    config = sweep_config(run_dir, lora=KINDS[kind], weight_decay=0.1)
    work = point_work(run_dir, config, weights=weights).model_copy(update={"run_dir": str(tmp_path)})
    losses: list[float] = []

    def note(progress: Progress) -> bool:
        losses.append(progress.metrics["loss"])
        return False

    assert train_point(work, hooks=[Hook(1, note)]) == 20
    assert work.trial is not None
    (file,) = final_dir(tmp_path, work.trial).glob("*.safetensors")
    dpo = dpo_training(run_dir, config, tmp_path / "dpo", weights=weights)
    expected = {name.replace(".default.", "."): values for name, values in dpo.parameters.items()}
    accept("D8", "weights that differ in a bit", differing(load_file(file), expected), at_most=0)
    accept("D8", "losses that differ in a bit", sum(a != b for a, b in zip(losses, dpo.losses, strict=True)), at_most=0)
    assert abs(losses[-1] - losses[0]) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundredth_of_weight_elsewhere_changes_the_bits(run_dir: Path, tmp_path: Path, kind: str):
    """So the comparison above can fail."""
    config = sweep_config(run_dir, lora=KINDS[kind], max_steps=2)
    mixed = train_to_end(run_dir, config, tmp_path / "mixed", weights=(0.99, 0.01))
    dpo = dpo_training(run_dir, config, tmp_path / "dpo", weights=VERTICES["vivid"])
    assert differing(mixed.parameters, dpo.parameters) > 100


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    """Numbers of two states that are not the same; the states must have the same names."""
    assert one.keys() == other.keys()
    return sum(int((one[name] != other[name]).sum()) for name in one)
