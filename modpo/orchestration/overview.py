"""What `modpo plan` says: stages, trials and how they fit, before anything is started."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from modpo.config.tree import SweepConfig
from modpo.data.loading import LoadedData
from modpo.orchestration.inputs import load_inputs, resolve_paths
from modpo.orchestration.machine import local_nodes
from modpo.orchestration.plan import SweepPlan, plan_sweep
from modpo.orchestration.resources import NodeShape, ResourcePlan, plan_resources


@dataclass(frozen=True)
class Overview:
    """A sweep as it would run.

    Attributes:
        plan: every trial, and the digests of the stages.
        pairs: pairs of each objective, before the length limit; at most so many where they are yet to be made.
        steps: optimiser steps of a point whose primary objective this is.
        rounds: how often the slots are filled to train all trials.
    """

    plan: SweepPlan
    pairs: dict[str, int]
    steps: dict[str, int]
    resources: ResourcePlan
    rounds: int


def overview(config: SweepConfig, data: LoadedData | None = None) -> Overview:
    """Plans a checked config against this machine, or the cluster that RAY_ADDRESS names; starts nothing.

    Raises:
        InputError: of the data.
        SetupError: not even one trial fits.
    """
    with TemporaryDirectory(prefix="modpo-plan-") as scratch:
        resolved = resolve_paths(config, Path(scratch))
        data, inputs = load_inputs(resolved, data)
    plan = plan_sweep(resolved, inputs)
    pairs = _pairs(config, data)
    resources = plan_resources(config.resources, _nodes(), num_trials=len(plan.trials))
    rounds = math.ceil(len(plan.trials) / resources.slots)
    return Overview(plan, pairs, _steps(config, pairs), resources, rounds)


def _pairs(config: SweepConfig, data: LoadedData) -> dict[str, int]:
    pairs = {name: len(loaded.pairs) for name, loaded in data.objectives.items()}
    if config.label is not None:
        a_prompt = math.comb(config.label.responses_per_prompt, 2)
        limit = config.label.max_pairs_per_prompt or a_prompt
        pairs |= dict.fromkeys(config.labelled(), len(data.label_prompts) * min(a_prompt, limit))
    return pairs


def _steps(config: SweepConfig, pairs: dict[str, int]) -> dict[str, int]:
    """Estimated from the rows: the exact number is known when the held-out prompts are."""
    training, workers = config.training, config.resources.num_workers
    global_batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * workers
    rows = (1 - config.data.eval_fraction) * training.num_train_epochs
    return {name: training.max_steps or math.ceil(count * rows / global_batch) for name, count in pairs.items()}


def _nodes() -> tuple[NodeShape, ...]:
    if not os.environ.get("RAY_ADDRESS"):
        return local_nodes()
    # Ray takes a second to import, and only a cluster needs asking.
    from modpo.orchestration.cluster import connected, node_shapes

    with connected():
        return node_shapes()
