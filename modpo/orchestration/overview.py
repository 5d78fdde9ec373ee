"""What `modpo plan` says: stages, trials and how they fit, before anything is started."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modpo.config.tree import SweepConfig
from modpo.core.memory import ModelTensors, RankMemory
from modpo.data.loading import LoadedData
from modpo.errors import Problem
from modpo.ledger import is_trained, read_point
from modpo.orchestration.estimate import BYTES_A_TOKEN, DeviceTime, from_flops, from_measured, storage_bytes
from modpo.orchestration.fit import check_device_memory, check_disk, known_tensors, memory_by_stage, warn_of_activations
from modpo.orchestration.gpus import GPU_FLOPS
from modpo.orchestration.inputs import load_inputs, resolve_paths
from modpo.orchestration.machine import local_nodes
from modpo.orchestration.plan import SweepPlan, plan_sweep
from modpo.orchestration.resources import NodeShape, ResourcePlan, plan_resources
from modpo.storage import stored, working_copy

# Of each objective, what the mean length of a pair is taken from.
LOOKED_AT = 1000


@dataclass(frozen=True)
class Overview:
    """A sweep as it would run.

    Attributes:
        plan: every trial, and the digests of the stages.
        pairs: pairs of each objective, before the length limit; at most so many where they are yet to be made.
        steps: optimiser steps of a point whose primary objective this is.
        rounds: how often the slots are filled to train all trials.
        memory: of a rank, by ZeRO stage; empty where the model's sizes cannot be known from its config.
        storage: bytes by what they are for; empty in the same case.
        free_bytes: on the storage path, None where that is no folder of this machine.
        time: of all training steps that are still to be taken; None where there is no pace to go by.
        price: of these hours, where the sweep file says what a device costs.
        sentences: what limits the sweep, and what may run short.
        problems: what keeps it from running as it is.
    """

    plan: SweepPlan
    pairs: dict[str, int]
    steps: dict[str, int]
    resources: ResourcePlan
    rounds: int
    memory: dict[int, RankMemory]
    storage: dict[str, int]
    free_bytes: int | None
    time: DeviceTime | None
    price: float | None
    sentences: tuple[str, ...]
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        """Every figure, for other programs."""
        memory = {
            stage: {**dataclasses.asdict(of_stage), "total": of_stage.total} for stage, of_stage in self.memory.items()
        }
        return {
            "trials": [trial.model_dump(mode="json") for trial in self.plan.trials],
            "points": [trial.trial_id for trial in self.plan.points],
            "pairs": self.pairs,
            "steps": self.steps,
            "resources": dataclasses.asdict(self.resources),
            "rounds": self.rounds,
            "rank_memory_bytes": memory,
            "storage_bytes": self.storage,
            "free_bytes": self.free_bytes,
            "device_hours": dataclasses.asdict(self.time) if self.time else None,
            "price": self.price,
            "sentences": list(self.sentences),
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }


def overview(config: SweepConfig, data: LoadedData | None = None) -> Overview:
    """Plans a checked config against this machine, or the cluster that RAY_ADDRESS names; starts nothing.

    Raises:
        InputError: of the data.
        SetupError: not even one trial fits.
    """
    with TemporaryDirectory(prefix="modpo-plan-") as scratch:
        resolved = resolve_paths(config, Path(scratch))
        data, inputs = load_inputs(resolved, data)
        tensors = known_tensors(resolved)
    plan = plan_sweep(resolved, inputs)
    pairs, pair_tokens = _pairs(config, data), _pair_tokens(config, data)
    steps = _steps(config, pairs)
    resources = plan_resources(config.resources, _nodes(), num_trials=len(plan.trials))
    time = _time(config, plan, steps, _Pace(resources, tensors, _global_batch(config) * pair_tokens))
    storage: dict[str, int] = {}
    if tensors is not None:
        storage = storage_bytes(
            config, tensors, num_points=len(plan.trials), num_pairs=sum(pairs.values()), pair_tokens=pair_tokens
        )
    free, price = _free_bytes(config), config.resources.price_per_device_hour
    sentences, problems = _shortages(config, resources, tensors, storage, free)
    return Overview(
        plan=plan,
        pairs=pairs,
        steps=steps,
        resources=resources,
        rounds=math.ceil(len(plan.trials) / resources.slots),
        memory=memory_by_stage(config, tensors) if tensors is not None else {},
        storage=storage,
        free_bytes=free,
        time=time,
        price=time.hours * price if time is not None and price is not None else None,
        sentences=sentences,
        problems=problems,
    )


def _shortages(
    config: SweepConfig,
    resources: ResourcePlan,
    tensors: ModelTensors | None,
    storage: dict[str, int],
    free: int | None,
) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """(what may run short, what surely does)."""
    sentences, problems = list(resources.limits), list[Problem]()
    if tensors is not None and resources.device_gib is not None:
        sentences += warn_of_activations(config, tensors, resources.device_gib)
        problems += check_device_memory(config, tensors, resources.device_gib)
    if free is not None:
        problems += check_disk(sum(storage.values()), free, where=f"storage_path: {config.storage_path}")
    return tuple(sentences), tuple(problems)


def _pairs(config: SweepConfig, data: LoadedData) -> dict[str, int]:
    pairs = {name: len(loaded.pairs) for name, loaded in data.objectives.items()}
    if config.label is not None:
        a_prompt = math.comb(config.label.responses_per_prompt, 2)
        limit = config.label.max_pairs_per_prompt or a_prompt
        pairs |= dict.fromkeys(config.labelled(), len(data.label_prompts) * min(a_prompt, limit))
    return pairs


def _global_batch(config: SweepConfig) -> int:
    training = config.training
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * config.resources.num_workers


def _steps(config: SweepConfig, pairs: dict[str, int]) -> dict[str, int]:
    """Estimated from the rows: the exact number is known when the held-out prompts are."""
    training, global_batch = config.training, _global_batch(config)
    rows = (1 - config.data.eval_fraction) * training.num_train_epochs
    return {name: training.max_steps or math.ceil(count * rows / global_batch) for name, count in pairs.items()}


def _pair_tokens(config: SweepConfig, data: LoadedData) -> float:
    """Tokens of a pair, nearly: by the bytes of its texts, or the longest possible where pairs are yet to be made."""
    longest = 2.0 * config.data.max_length
    sizes = [
        len(f"{pair.prompt}{pair.chosen}{pair.rejected}".encode()) / BYTES_A_TOKEN
        for loaded in data.objectives.values()
        for pair in islice(loaded.pairs, LOOKED_AT)
    ]
    return min(longest, sum(sizes) / len(sizes)) if sizes else longest


@dataclass(frozen=True)
class _Pace:
    """What a step's operations are counted by, where no step has been measured."""

    resources: ResourcePlan
    tensors: ModelTensors | None
    step_tokens: float

    @property
    def device(self) -> str:
        return self.resources.accelerator or ("" if self.resources.gpus_per_worker else "a core of this machine")

    def peak(self, dtype: str) -> float | None:
        """Operations a second of one device at best; a core is measured, by this machine's."""
        if self.resources.gpus_per_worker:
            return GPU_FLOPS.get(self.resources.accelerator)
        # torch takes seconds to import.
        import torch

        from modpo.models import DTYPES
        from modpo.utilisation import matmul_peak

        return matmul_peak(torch.device("cpu"), DTYPES[dtype])


def _time(config: SweepConfig, plan: SweepPlan, steps: dict[str, int], pace: _Pace) -> DeviceTime | None:
    """Of the points that are not trained yet: by the pace of those that are, or by their operations."""
    run_dir, names = working_copy(config.storage_path) / config.name, config.objective_names
    waiting = [trial for trial in plan.trials if not is_trained(run_dir, trial)]
    left = sum(steps[names[source]] for trial in waiting for source in trial.sources)
    records = [read_point(run_dir, trial.trial_id) for trial in plan.trials]
    paces = [
        (record.step, record.training.device_seconds)
        for record in records
        if record is not None and record.training.device_seconds
    ]
    measured = from_measured(paces, steps=left)
    if measured is not None or pace.tensors is None or (peak := pace.peak(config.model.dtype)) is None:
        return measured
    return from_flops(pace.tensors, steps=left, step_tokens=pace.step_tokens, peak=peak, device=pace.device)


def _free_bytes(config: SweepConfig) -> int | None:
    """Free on the storage path, and what this run has there already."""
    folder = working_copy(config.storage_path) / config.name
    if stored(folder) is not None:
        return None
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if existing == folder else 0
    return shutil.disk_usage(existing).free + own


def _nodes() -> tuple[NodeShape, ...]:
    if not os.environ.get("RAY_ADDRESS"):
        return local_nodes()
    # Ray takes a second to import, and only a cluster needs asking.
    from modpo.orchestration.cluster import connected, node_shapes

    with connected():
        return node_shapes()
