"""Cached reference log-probabilities and margin rewards are those computed afresh, as they reach a trial's batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modpo.annotate import distinct_completions, shares
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs
from modpo.data.prepared import read_pairs
from modpo.models import load_model
from modpo.rewards.base import Completion
from modpo.rewards.scorers import build_scorer
from modpo.scoring import ResponseModel, completion_logps
from modpo.training.batches import AnnotatedPairs, read_annotated
from tests.acceptance.plugin import Accept
from tests.sweeps import world_sweep
from tests.unit.adapters import save_random_adapter
from tests.unit.annotations import CPU, annotated, prepared_inputs, work

Sides = NDArray[np.float64]
"""(P, 2) numbers of chosen and rejected."""


@pytest.fixture(scope="module")
def config(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """`vivid` has the implicit reward of an adapter, `brief` a function."""
    plain = world_sweep(demo_world, evaluation={"batch_size": 16})
    adapter = save_random_adapter(plain.model, tmp_path_factory.mktemp("adapter") / "vivid", seed=1)
    raw = plain.model_dump(mode="json")
    raw["objectives"][0]["reward"] = {"type": "implicit", "adapter": str(adapter), "adapter_beta": 0.5}
    return SweepConfig.model_validate(raw)


@pytest.fixture(scope="module")
def inputs(config: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> StageInputs:
    """The start model, and both tables made from it."""
    folder = tmp_path_factory.mktemp("cached")
    inputs = prepared_inputs(folder / "prepared", config)
    inputs = inputs.model_copy(update={"reference": str(annotated(folder, config, inputs, "reference"))})
    return inputs.model_copy(update={"rewards": str(annotated(folder, config, inputs, "rewards"))})


@pytest.fixture(scope="module")
def data(config: SweepConfig, inputs: StageInputs) -> AnnotatedPairs:
    """All pairs, held-out ones too, by the way of a trial's training pairs."""
    trained_on = read_annotated(
        Path(inputs.reference),
        Path(inputs.rewards),
        sources=config.objective_names,
        weights=dict.fromkeys(config.objective_names, 0.5),
    )
    return replace(trained_on, rows=np.arange(len(trained_on.table)))


def of_rows(data: AnnotatedPairs, completions: list[Completion], values: NDArray[np.float64]) -> Sides:
    """The values of completions, beside the responses of the trial's rows."""
    by_key = dict(zip([completion.key for completion in completions], values.tolist(), strict=True))
    trees = data.table.trees(data.rows)
    return np.array([[by_key[tree.prompt_ids, response] for response in tree.response_ids] for tree in trees])


def test_to_the_bit_in_the_same_rows(
    config: SweepConfig, inputs: StageInputs, data: AnnotatedPairs, accept: Accept
) -> None:
    """Another load of the models, the same order of completions."""
    everything = distinct_completions(read_pairs(Path(inputs.prepared)))
    (completions,) = shares(everything, work(config, inputs, "reference", Path()), 1)
    base = load_model(config.model)
    logps = completion_logps(
        ResponseModel(base, longest=config.longest_sequence),
        [c.prompt_ids for c in completions],
        [c.response_ids for c in completions],
        batch_size=config.evaluation.batch_size,
    )
    batch = data.batch(range(len(data)), CPU)
    assert batch.num_pairs == len(read_pairs(Path(inputs.prepared))) > 100
    cached = np.stack([batch.reference.chosen, batch.reference.rejected], -1)
    differing = np.count_nonzero(cached != of_rows(data, completions, logps))
    accept("C3", "reference log-probabilities that differ in a bit", differing, at_most=0)
    for column, objective in enumerate(config.objectives):
        rewards = build_scorer(config, objective, inputs, base=base).score(completions, reference_logps=logps)
        sides = (batch.margin_rewards.chosen, batch.margin_rewards.rejected)
        cached = np.stack([side[:, column] for side in sides], -1)
        differing = np.count_nonzero(cached != of_rows(data, completions, rewards))
        accept("C3", "margin rewards that differ in a bit", differing, at_most=0)
        assert cached.std() > 0.1


def test_up_to_rounding_one_by_one(config: SweepConfig, data: AnnotatedPairs, accept: Accept) -> None:
    batch = data.batch(range(len(data)), CPU)
    model = ResponseModel(load_model(config.model), longest=config.longest_sequence)
    alone = [
        [completion_logps(model, [tree.prompt_ids], [response], batch_size=1)[0] for response in tree.response_ids]
        for tree in data.table.trees(data.rows)
    ]
    cached = np.stack([batch.reference.chosen, batch.reference.rejected], -1)
    difference = np.abs(cached - np.array(alone)).max()
    accept("C3", "largest difference from scoring one by one, in nats", difference, at_most=1e-4)
