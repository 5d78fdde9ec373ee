"""Our side of the sweep benchmark: the files of a run whose pairs are tokenised, its annotation, and its points."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaModel

from benchmarks.variants import BETA, CPU
from benchmarks.workloads import LORA, ModelSize, randomise_adapter, token_counts
from modpo.annotate import annotate_shard, merge_shards
from modpo.config import SweepConfig
from modpo.config.load import parse_config
from modpo.config.spec import StageInputs, TrialSpec, Work
from modpo.data.prepared import TokenisedPair
from modpo.data.tables import column_names, pairs_schema, table_writer
from modpo.models import POLICY_ADAPTER
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point

PRIMARY, MARGIN = "primary", "margin"
MARGIN_SEED = 2
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class SweepFiles:
    """A run's folder with `start`, `adapter` (the margin's) and `prepared`."""

    folder: Path
    config: SweepConfig
    num_pairs: int

    @property
    def start(self) -> Path:
        return self.folder / "start"

    def work(self, kind: str, output: Path, trial: TrialSpec | None = None) -> Work:
        inputs = StageInputs(
            prepared=str(self.folder / "prepared"),
            start_model=str(self.start),
            reference=str(self.folder / "reference"),
            rewards=str(self.folder / "rewards"),
        )
        return Work.model_validate(
            {
                "work_id": output.name,
                "kind": kind,
                "run_dir": str(self.folder),
                "config": self.config,
                "inputs": inputs,
                "output": str(output),
                "trial": trial,
            }
        )


def write_files(
    folder: Path, size: ModelSize, pairs: Sequence[TokenisedPair], *, batch_size: int, num_epochs: int
) -> SweepFiles:
    """Everything that annotation and training read; the primary objective's own rewards stand beside its pairs."""
    policy = size.policy()
    randomise_adapter(policy, POLICY_ADAPTER, seed=MARGIN_SEED)
    policy.save_pretrained(str(folder / "adapter"))
    size.model().save_pretrained(folder / "start")
    (folder / "prepared").mkdir()
    with table_writer(folder / "prepared" / "pairs.parquet", pairs_schema([PRIMARY])) as table:
        for pair in pairs:
            rewards = dict(zip(column_names(PRIMARY), (1.0, 0.0), strict=True))
            table.append({**vars(pair), "prompt": json.dumps(pair.prompt), **rewards})
    config = parse_config(
        {
            "name": "sweep",
            "storage_path": str(folder),
            "model": {"name_or_path": str(folder / "start"), "dtype": "float32", "lora": LORA.model_dump()},
            "objectives": [
                {"name": PRIMARY, "pairs": {"path": "pairs.jsonl"}, "reward": {"type": "columns"}},
                {
                    "name": MARGIN,
                    "reward": {"type": "implicit", "adapter": str(folder / "adapter"), "adapter_beta": BETA},
                },
            ],
            "data": {"max_length": token_counts(pairs).longest},
            "training": {
                "beta": BETA,
                "learning_rate": LEARNING_RATE,
                "per_device_train_batch_size": batch_size,
                "num_train_epochs": num_epochs,
                "save_steps": 1000,
            },
            "evaluation": {"batch_size": 2 * batch_size, "max_new_tokens": 1},
        }
    )
    return SweepFiles(folder, config, len(pairs))


def annotate(files: SweepFiles) -> float:
    """Reference log-probabilities and margin rewards of all pairs, once for the sweep; CPU seconds."""
    started = time.process_time()
    for kind in ("reference", "rewards"):
        work = files.work(kind, files.folder / f"{kind}-parts")
        annotate_shard(work, rank=0, world_size=1, device=CPU)
        merge_shards(work, output=files.folder / kind, description={"kind": kind})
    return time.process_time() - started


@dataclass(frozen=True)
class TrainedPoint:
    """What a point took.

    Attributes:
        around: CPU seconds before and after the epochs: loading, engine, step-0 check, checkpoint, final weights.
        epochs: CPU seconds of each.
        micro_batches: optimiser steps, each of one micro-batch.
        policy_forwards: passes of the model that a gradient comes back from.
        other_forwards: passes between the first of those and the end of the training: of a reference or a margin model.
        forwards_before: passes before the first step: the step-0 check, and the short ones that try out the family.
    """

    around: float
    epochs: tuple[float, ...]
    micro_batches: int
    policy_forwards: int
    other_forwards: int
    forwards_before: int


@dataclass
class Forwards:
    """Passes of any Llama in this process, and when the first of a training began."""

    before: int = 0
    policy: int = 0
    other: int = 0
    first_at: float = 0.0


@contextmanager
def counted_forwards() -> Iterator[Forwards]:
    """Counts every pass in a block that trains once."""
    found = Forwards()

    def count(module: torch.nn.Module, inputs: Any) -> None:
        if not isinstance(module, LlamaModel):
            return
        if module.training and torch.is_grad_enabled():
            found.first_at = found.first_at or time.process_time()
            found.policy += 1
        elif found.policy:
            found.other += 1
        else:
            found.before += 1

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def train(files: SweepFiles, name: str, primary_weight: float) -> TrainedPoint:
    """One point from its start model to its final weights, with the real engine and loop."""
    trial = TrialSpec(
        trial_id=name,
        weights=(primary_weight, 1 - primary_weight),
        primary=0,
        beta=BETA,
        seed=0,
        sources=(0,),
        uses_rewards=True,
    )
    training = files.config.training
    ends: list[float] = []

    def at_end_of_epoch(progress: Progress) -> bool:
        ends.append(time.process_time())
        return False

    steps_per_epoch = files.num_pairs // training.per_device_train_batch_size
    started = time.process_time()
    with counted_forwards() as forwards:
        steps = train_point(
            files.work("point", files.folder / name, trial), hooks=[Hook(steps_per_epoch, at_end_of_epoch)]
        )
    total = time.process_time() - started
    epochs = tuple(end - start for start, end in zip([forwards.first_at, *ends[:-1]], ends, strict=True))
    return TrainedPoint(total - sum(epochs), epochs, steps, forwards.policy, forwards.other, forwards.before)
