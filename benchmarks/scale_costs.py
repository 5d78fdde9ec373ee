"""What annotation and points cost at several sizes: the code that users run, on random models and random tokens."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modpo.annotate import annotate_shard, merge_shards
from modpo.config import parse_config
from modpo.config.spec import StageInputs, TrialSpec, Work
from modpo.config.tree import LoraConfig
from modpo.data.tables import column_names, pairs_schema, table_writer
from modpo.models import attach_adapter, save_trained
from modpo.training.point import train_point

PRIMARY = "objective_0"
BETA = 0.1
BATCH_PAIRS = 8
ADAPTER_SCALE = 0.02
CPU = torch.device("cpu")

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured: each list is one table, in which only that changes.

    Attributes:
        hidden: size of a random Llama of `layers` layers with `vocabulary` tokens.
        pairs: in rising order; the other tables have the middle one.
        tokens: of a prompt and of each of its two responses; the other tables have the middle one.
        objectives: the first one's rewards stand in the data, each other one is an adapter's.
        workers: that share the annotation.
        points: weight vectors.
        rounds: everything is measured so often, in turn.
    """

    hidden: int
    layers: int
    vocabulary: int
    pairs: tuple[int, ...]
    tokens: tuple[int, ...]
    objectives: tuple[int, ...]
    workers: tuple[int, ...]
    points: int
    rounds: int


FULL = Sizes(256, 4, 4096, (32, 64, 128), (32, 64, 128), (2, 3, 4), (1, 2, 4), points=5, rounds=3)
QUICK = Sizes(64, 2, 512, (16, 32, 64), (16, 32, 64), (2, 4), (1, 4), points=3, rounds=1)


class World:
    """A random start model, adapters on it, and folders of random pairs, below one folder."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self._folder, self._sizes = folder, sizes
        self._numbers = itertools.count()
        torch.manual_seed(0)
        LlamaForCausalLM(_llama(sizes)).save_pretrained(folder / "start")
        for number in range(1, max(sizes.objectives)):
            _write_adapter(folder / f"adapter-{number}", sizes, seed=number)

    def write(self, num_pairs: int, tokens: int, num_objectives: int = 2) -> Run:
        """The files of a run with these pairs, ready to be annotated."""
        folder = self._folder / f"run-{next(self._numbers)}"
        (folder / "prepared").mkdir(parents=True)
        generator = np.random.default_rng(0)
        with table_writer(folder / "prepared" / "pairs.parquet", pairs_schema([PRIMARY])) as table:
            for number in range(num_pairs):
                table.append(_pair(number, tokens, generator, self._sizes.vocabulary))
        margins = [
            {
                "name": f"objective_{number}",
                "reward": {
                    "type": "implicit",
                    "adapter": str(self._folder / f"adapter-{number}"),
                    "adapter_beta": BETA,
                },
            }
            for number in range(1, num_objectives)
        ]
        raw = {
            "name": "scale",
            "model": {"name_or_path": str(self._folder / "start"), "dtype": "float32", "lora": {"r": 16}},
            "objectives": [{"name": PRIMARY, "pairs": {"path": "-"}, "reward": {"type": "columns"}}, *margins],
            "data": {"max_length": 4 * tokens},
            "training": {"beta": BETA, "per_device_train_batch_size": BATCH_PAIRS, "save_steps": 10**6},
            "evaluation": {"batch_size": 2 * BATCH_PAIRS, "max_new_tokens": 1},
        }
        return Run(folder, raw, num_pairs, 3 * tokens * num_pairs, num_objectives)


@dataclass(frozen=True)
class Run:
    """The files of one sweep.

    Attributes:
        num_tokens: of all pairs, each prompt counted once.
    """

    folder: Path
    raw: dict[str, Any]
    num_pairs: int
    num_tokens: int
    num_objectives: int

    def annotate(self) -> float:
        """CPU seconds of both annotations, from nothing to the tables that trials read."""
        started = time.process_time()
        for kind in ("reference", "rewards"):
            shutil.rmtree(self.folder / kind, ignore_errors=True)
            annotate_shard(self._work(kind), rank=0, world_size=1, device=CPU)
            self._merge(kind)
        return time.process_time() - started

    def annotate_shared(self, workers: int) -> list[float]:
        """CPU seconds of each of so many workers, one after another; joining their parts is not in it."""
        seconds = [0.0] * workers
        for kind in ("reference", "rewards"):
            shutil.rmtree(self.folder / kind, ignore_errors=True)
            for rank in range(workers):
                started = time.process_time()
                annotate_shard(self._work(kind), rank=rank, world_size=workers, device=CPU)
                seconds[rank] += time.process_time() - started
            self._merge(kind)
        return seconds

    def train(self, weight: float) -> float:
        """CPU seconds of a point of one epoch, with this weight on the first objective: from files to files."""
        rest = (1 - weight) / (self.num_objectives - 1)
        trial = TrialSpec(
            trial_id=f"weight-{weight:.3f}",
            weights=(weight, *[rest] * (self.num_objectives - 1)),
            primary=0,
            beta=BETA,
            seed=0,
            sources=(0,),
            uses_rewards=True,
        )
        shutil.rmtree(self.folder / "points", ignore_errors=True)
        started = time.process_time()
        train_point(self._work("point", trial))
        return time.process_time() - started

    def _merge(self, kind: str) -> None:
        work = self._work(kind)
        merge_shards(work, output=self.folder / kind, description={"kind": kind})
        shutil.rmtree(work.output)

    def _work(self, kind: str, trial: TrialSpec | None = None) -> Work:
        inputs = StageInputs(
            prepared=str(self.folder / "prepared"),
            start_model=self.raw["model"]["name_or_path"],
            reference=str(self.folder / "reference"),
            rewards=str(self.folder / "rewards"),
        )
        return Work.model_validate(
            {
                "work_id": kind,
                "kind": kind,
                "run_dir": str(self.folder),
                "config": parse_config(self.raw),
                "inputs": inputs,
                "output": str(self.folder / f"{kind}-parts"),
                "trial": trial,
            }
        )


def measured_costs(folder: Path, sizes: Sizes) -> dict[str, list[Row]]:
    """One row a size and round."""
    world = World(folder, sizes)
    middle_pairs, middle_tokens = sizes.pairs[len(sizes.pairs) // 2], sizes.tokens[len(sizes.tokens) // 2]
    by_pairs = [world.write(number, middle_tokens) for number in sizes.pairs]
    by_tokens = [world.write(middle_pairs, tokens) for tokens in sizes.tokens]
    by_objectives = [world.write(middle_pairs, middle_tokens, number) for number in sizes.objectives]
    # The first of everything is slower, whatever it is.
    by_pairs[0].annotate()
    by_pairs[0].train(0.5)
    rows: dict[str, list[Row]] = {name: [] for name in ("pairs", "length", "objectives", "workers", "points")}
    for number in range(sizes.rounds):
        rows["pairs"] += [{"round": number, **_costs(run)} for run in by_pairs]
        rows["length"] += [{"round": number, **_costs(run)} for run in by_tokens]
        rows["objectives"] += [
            {"round": number, "objectives": run.num_objectives, **_costs(run)} for run in by_objectives
        ]
        rows["workers"] += [{"round": number, **_shared(by_pairs[-1], workers)} for workers in sizes.workers]
        rows["points"] += _points(by_pairs[1], sizes.points, number)
    return rows


def _costs(run: Run) -> Row:
    annotation = run.annotate()
    return {
        "pairs": run.num_pairs,
        "tokens": run.num_tokens,
        "annotation_s": annotation,
        "point_s": run.train(0.5),
    }


def _shared(run: Run, workers: int) -> Row:
    seconds = run.annotate_shared(workers)
    return {"workers": workers, "all_s": sum(seconds), "slowest_s": max(seconds)}


def _points(run: Run, count: int, number: int) -> list[Row]:
    """The first N points with their annotation, for every N."""
    annotation = run.annotate()
    rows, trained = [], 0.0
    for index in range(count):
        point = run.train((index + 1) / (count + 1))
        trained += point
        rows.append(
            {
                "round": number,
                "points": index + 1,
                "point_s": point,
                "sweep_s": annotation + trained,
                "annotation_percent": 100 * annotation / (annotation + trained),
            }
        )
    return rows


def fitted(rows: Sequence[Row], cost: str) -> tuple[float, float, float]:
    """(seconds whatever the size, microseconds a token, largest relative error of the line), by least squares."""
    sizes = np.array([[1.0, row["tokens"]] for row in rows])
    seconds = np.array([row[cost] for row in rows])
    constants, *_ = np.linalg.lstsq(sizes, seconds, rcond=None)
    error = float(np.abs(sizes @ constants / seconds - 1).max())
    return float(constants[0]), float(1e6 * constants[1]), error


def _llama(sizes: Sizes) -> LlamaConfig:
    heads = max(1, sizes.hidden // 64)
    return LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.hidden * 8 // 3,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )


def _write_adapter(folder: Path, sizes: Sizes, *, seed: int) -> None:
    policy = attach_adapter(LlamaForCausalLM(_llama(sizes)), LoraConfig(r=16), seed=seed)
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    save_trained(policy, folder, {name: ADAPTER_SCALE * torch.randn(p.shape) for name, p in trained.items()})


def _pair(number: int, tokens: int, generator: np.random.Generator, vocabulary: int) -> Row:
    """Prompt and responses of about so many tokens each, three times as many together."""
    cut = int(generator.integers(1 + tokens // 2, 1 + tokens + tokens // 2))
    lengths = (tokens, cut, 2 * tokens - cut)
    ids = [generator.integers(1, vocabulary, length).tolist() for length in lengths]
    texts = [f"{name} {number}" for name in ("prompt", "chosen", "rejected")]
    rewards = dict(zip(column_names(PRIMARY), (1.0, 0.0), strict=True))
    return {
        "pair_id": f"pair-{number}",
        "objective": PRIMARY,
        "split": "train",
        "prompt": json.dumps(texts[0]),
        "chosen": texts[1],
        "rejected": texts[2],
        **dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), ids, strict=True)),
        **rewards,
    }
