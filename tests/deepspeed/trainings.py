"""Trainings as tests start them: real artefacts, the real engine and the real loop, on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modpo.annotate import annotate_shard, merge_shards
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs, TrialSpec, Work
from modpo.core.workload import UNKNOWN_TOTALS, StepTotals
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared
from modpo.training.batches import AnnotatedPairs, read_annotated
from modpo.training.checkpoint import Checkpoints
from modpo.training.loop import Hook, Progress, Training, train
from modpo.training.point import build_policy, check_reference, loss_settings, start_engine
from modpo.training.sft import train_sft
from modpo.training.step import MicroBatch, TrainEngine, preference_micro_batch
from modpo.utilisation import known_shape
from tests.sweeps import world_sweep

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where DeepSpeed puts what it trains."""
GLOBAL_BATCH_SIZE = 8
BETA = 0.5
PEAK = 1e9
"""Operations a second that a device is said to be able to do: measuring it would take longer than a training."""
STAGES = (0, 1, 2, 3)
SAVED_STEP = 10
"""Whose checkpoint a training of twenty steps leaves for others to go on from."""
LORA = {"r": 4}
DROPOUT_LORA = {"r": 4, "lora_dropout": 0.1}
KINDS: dict[str, dict[str, Any] | None] = {"lora": LORA, "full": None}
"""LoRA settings of the two kinds of training; `None` trains all weights."""


def worst_relative(values: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference of two series of numbers, relative to the expected one."""
    return max(abs(value - other) / abs(other) for value, other in zip(values, expected, strict=True))


def flat(tensors: dict[str, Tensor]) -> Tensor:
    """All numbers of a state in one row, in the order of their names."""
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


class InterruptedTrainingError(Exception):
    """Stands for a lost process: nothing of the training runs after it."""


@dataclass(frozen=True)
class Outcome:
    """What a training did in this process, and the state that it left; tensors are there on rank 0 only."""

    steps: int
    losses: list[float]
    grad_norms: list[float]
    parameters: dict[str, Tensor]
    moments: dict[str, Tensor]
    random_state: Tensor
    totals: StepTotals = UNKNOWN_TOTALS
    checkpoints: Path = Path()

    @property
    def state(self) -> dict[str, Tensor]:
        """All that the next step would depend on, by name."""
        return {**self.parameters, **self.moments, "random state": self.random_state}


def sweep_config(
    run_dir: Path,
    *,
    dtype: str = "float32",
    lora: dict[str, Any] | None = None,
    load_in_4bit: bool = False,
    num_workers: int = 1,
    objectives: Sequence[dict[str, Any]] | None = None,
    **training: Any,
) -> SweepConfig:
    """A sweep over the world in `run_dir`; `lora=None` is full fine-tuning."""
    world = run_dir / "world"
    return world_sweep(
        world,
        **({} if objectives is None else {"objectives": list(objectives)}),
        model={"name_or_path": "", "dtype": dtype, "lora": lora, "load_in_4bit": load_in_4bit},
        data={"template": "{prompt}\n", "eval_fraction": 0.2},
        resources={"num_workers": num_workers},
        sft={
            "data": {"path": str(world / "corpus.jsonl")},
            "learning_rate": 4e-3,
            "per_device_train_batch_size": 32,
            "max_steps": 60,
        },
        training={
            # At 1e-3 and more, full training comes near the edge of divergence, where float32 rounding alone grows to
            # 1e-5 in twenty steps.
            "learning_rate": 5e-4,
            "per_device_train_batch_size": GLOBAL_BATCH_SIZE,
            "max_steps": 20,
            "beta": BETA,
            "save_steps": 1000,
            **training,
        },
    )


def write_run(run_dir: Path) -> None:
    """Prepares the data of `run_dir/world`, fine-tunes a start model and annotates with it."""
    config = sweep_config(run_dir)
    write_prepared(run_dir / "prepared", config, load_data(config), model_path=config.model.name_or_path)
    train_sft(sft_work(run_dir, config, output=run_dir / "start"))
    for kind in ("reference", "rewards"):
        annotate(run_dir, config, kind=kind, output=run_dir / kind)


def annotate(run_dir: Path, config: SweepConfig, *, kind: str, output: Path, start_model: Path | None = None) -> None:
    """Writes one annotation table, with the run's start model or another."""
    work = _work(run_dir, config, kind=kind, output=output.with_name(f"{output.name}-parts"))
    if start_model is not None:
        work = work.model_copy(update={"inputs": work.inputs.model_copy(update={"start_model": str(start_model)})})
    annotate_shard(work, rank=0, world_size=1, device=DEVICE)
    merge_shards(work, output=output, description={})


def sft_work(run_dir: Path, config: SweepConfig, *, output: Path) -> Work:
    return _work(run_dir, config, kind="sft", output=output)


def point_work(
    run_dir: Path, config: SweepConfig, *, trial_id: str = "p", weights: tuple[float, ...] = (0.5, 0.5), seed: int = 0
) -> Work:
    primary = weights.index(max(weights))
    trial = TrialSpec(
        trial_id=trial_id,
        weights=weights,
        primary=primary,
        beta=config.training.beta,
        seed=seed,
        sources=(primary,),
        uses_rewards=max(weights) < 1,
    )
    return _work(run_dir, config, kind="point", output=Path()).model_copy(update={"trial": trial})


def mixtures(place: Path, run_dir: Path, config: SweepConfig) -> list[Work]:
    """Three points of one primary objective, in a run of their own.

    The second has a beta of its own; the last is plain DPO and needs no reward.
    """
    works = []
    for number, (weights, beta) in enumerate((((0.5, 0.5), BETA), ((0.8, 0.2), 0.3), ((1.0, 0.0), BETA))):
        work = point_work(run_dir, config, trial_id=f"p{number}", weights=weights)
        assert work.trial is not None
        trial = work.trial.model_copy(update={"beta": beta})
        works.append(work.model_copy(update={"run_dir": str(place), "trial": trial}))
    return works


def annotated_pairs(run_dir: Path, work: Work, *, reference: Path | None = None) -> AnnotatedPairs:
    """The primary objective's training pairs of a point."""
    assert work.trial is not None
    return read_annotated(
        reference or run_dir / "reference",
        run_dir / "rewards",
        sources=[work.config.objective_names[source] for source in work.trial.sources],
        weights=dict(zip(work.config.objective_names, work.trial.weights, strict=True)),
    )


def train_to_end(
    run_dir: Path,
    config: SweepConfig,
    checkpoints: Path,
    *,
    weights: tuple[float, ...] = (0.5, 0.5),
    hooks: Sequence[Hook] = (),
    micro_batch: Callable[[MicroBatch], MicroBatch] = lambda plain: plain,
    look: Callable[[TrainEngine], None] = lambda engine: None,
    rows: Callable[[AnnotatedPairs], AnnotatedPairs] = lambda pairs: pairs,
) -> Outcome:
    """Trains one point from the newest checkpoint in `checkpoints`.

    Args:
        micro_batch: puts something around the point's own micro-batch.
        look: called with the engine after the last step, before it is closed.
        rows: what of the pairs to train on.
    """
    work = point_work(run_dir, config, weights=weights)
    data, settings = rows(annotated_pairs(run_dir, work)), loss_settings(work)
    policy = build_policy(config, str(run_dir / "start"), seed=0)
    shape = known_shape(policy, longest=config.longest_sequence)
    engine = start_engine(config, policy, seed=0)
    losses: list[float] = []
    grad_norms: list[float] = []
    totals = [StepTotals()]

    def record(progress: Progress) -> bool:
        losses.append(progress.metrics["loss"])
        grad_norms.append(progress.metrics["optim/grad_norm"])
        totals.append(progress.totals)
        return False

    try:
        steps = train(
            engine,
            Training(
                settings=config.training,
                micro_batch=micro_batch(
                    lambda model, share: preference_micro_batch(
                        model, data.batch(share, engine.device), settings, shape
                    )
                ),
                num_rows=len(data),
                costs=data.num_tokens,
                seed=0,
                checkpoints=Checkpoints(checkpoints, "test", engine.rank),
                hooks=[Hook(1, record), *hooks],
                peak_flops_per_second=PEAK,
            ),
        )
        look(engine)
        parameters, moments = engine.parameters(), engine.moments()
        state = torch.get_rng_state()
        return Outcome(steps, losses, grad_norms, parameters, moments, state, totals[-1], checkpoints)
    finally:
        engine.close()


def measured_gap(run_dir: Path, config: SweepConfig, table: Path, *, start_model: Path) -> float:
    """What the step-0 check finds against a table that is made with `start_model`."""
    annotate(run_dir, config, kind="reference", output=table, start_model=start_model)
    return gap_to(run_dir, config, table)


def build_engine(config: SweepConfig, start_model: str, *, seed: int) -> TrainEngine:
    """The policy at the reference weights, in training under DeepSpeed."""
    return start_engine(config, build_policy(config, start_model, seed=seed), seed=seed)


def gap_to(run_dir: Path, config: SweepConfig, table: Path) -> float:
    """What it finds against a table that is there."""
    data = annotated_pairs(run_dir, point_work(run_dir, config), reference=table)
    engine = build_engine(config, str(run_dir / "start"), seed=0)
    try:
        return check_reference(engine, data, config)
    finally:
        engine.close()


def one_pair_a_prompt(pairs: AnnotatedPairs) -> AnnotatedPairs:
    """The first of each prompt: no two pairs of a batch share tokens, however it is split."""
    _, first = np.unique(pairs.table.records["prompt"][pairs.rows], return_index=True)
    return replace(pairs, rows=pairs.rows[np.sort(first)])


def interrupt_at(step: int) -> Hook:
    """Loses the process after this step, before anything of it is saved."""

    def run(progress: Progress) -> bool:
        if progress.step == step:
            raise InterruptedTrainingError
        return False

    return Hook(1, run)


def train_interrupted(run_dir: Path, config: SweepConfig, checkpoints: Path, *, step: int) -> None:
    """Trains until the process is lost in `step`; the last checkpoint stands where `save_steps` put it."""
    try:
        train_to_end(run_dir, config, checkpoints, hooks=[interrupt_at(step)])
    except InterruptedTrainingError:
        return
    raise AssertionError(f"the training ended before step {step}")


def _work(run_dir: Path, config: SweepConfig, *, kind: str, output: Path) -> Work:
    inputs = StageInputs(
        prepared=str(run_dir / "prepared"),
        start_model=str(run_dir / "start"),
        reference=str(run_dir / "reference"),
        rewards=str(run_dir / "rewards"),
    )
    return Work(work_id=kind, kind=kind, run_dir=str(run_dir), config=config, inputs=inputs, output=str(output))
