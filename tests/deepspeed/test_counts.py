"""What runs inside a trial, counted where models are called: the policy, and nothing that no weight vector changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import pytest
from transformers import PreTrainedModel

from modpo.annotate import distinct_completions
from modpo.config.spec import Work
from modpo.core.trees import TreeBatch
from modpo.data.prepare import write_prepared
from modpo.data.prepared import read_pairs
from modpo.orchestration import stages
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from modpo.orchestration.session import Session
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from tests.acceptance.plugin import Accept
from tests.counting import counted_forwards, counted_responses, num_responses
from tests.deepspeed.trainings import GLOBAL_BATCH_SIZE, KINDS, point_work, sweep_config
from tests.deepspeed.whole_sweeps import InProcess
from tests.sweeps import world_sweep

STEPS, ACCUMULATION = 3, 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of", "weights"), [("point", (0.5, 0.5)), ("vertex", (1.0, 0.0))])
def test_no_reference_and_no_margin_runs_in_the_training_loop(
    run_dir: Path,
    tmp_path: Path,
    accept: Accept,
    kind: str,
    of: Literal["point", "vertex"],
    weights: tuple[float, float],
):
    """A forward pass of the policy for each micro-batch: two responses of every pair once, and no other model."""
    size = GLOBAL_BATCH_SIZE // ACCUMULATION
    config = sweep_config(
        run_dir,
        lora=KINDS[kind],
        max_steps=STEPS,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=ACCUMULATION,
    )
    work = point_work(run_dir, config, weights=weights).model_copy(update={"run_dir": str(tmp_path), "kind": of})
    rows, forwards = list[TreeBatch](), list[PreTrainedModel]()
    after_step: list[tuple[int, int, int]] = []

    def mark(_: Progress) -> bool:
        after_step.append((len(forwards), len(rows), num_responses(rows)))
        return False

    with counted_responses(rows), counted_forwards(forwards):
        assert train_point(work, hooks=[Hook(1, mark)]) == STEPS
    in_loop = [
        tuple(now - before for before, now in zip(earlier, later, strict=True))
        for earlier, later in pairwise(after_step)
    ]
    assert in_loop == [(ACCUMULATION, ACCUMULATION, 2 * GLOBAL_BATCH_SIZE)] * (STEPS - 1)
    # In front of the first step stands the step-0 check, of the policy too: one row of a micro-batch.
    assert len(rows) == 1 + STEPS * ACCUMULATION
    assert num_responses(rows) == 2 * size + 2 * STEPS * GLOBAL_BATCH_SIZE
    policies, others = len(forwards[:1]), len(set(map(id, forwards[1:])) - set(map(id, forwards[:1])))
    assert policies == 1
    accept("D6", "models run in a trial beside its policy", others, at_most=0)
    repeated = num_responses(rows) - 2 * size - 2 * STEPS * GLOBAL_BATCH_SIZE
    accept("D6", "forward passes of a response beyond one a step", repeated, at_most=0)


class KilledAfterOneShard(InProcess):
    """A session that ends with its process when the first piece of work is done."""

    def perform_all(self, works: Sequence[Work]) -> None:
        super().perform_all(works[:1])
        raise KeyboardInterrupt


def test_a_run_that_was_killed_after_one_shard_of_two_scores_the_other_one_alone(
    demo_world: Path, tmp_path: Path, accept: Accept
):
    config = world_sweep(demo_world)
    data, inputs = load_inputs(config)
    killed = stages.RunState(
        config, tmp_path, plan_sweep(config, inputs), cast(Session, KilledAfterOneShard(num_slots=2))
    )
    prepared = Path(killed.inputs.prepared)
    write_prepared(prepared, config, data, model_path=config.model.name_or_path)
    total, first, second = len(distinct_completions(read_pairs(prepared))), list[TreeBatch](), list[TreeBatch]()
    with counted_responses(first), pytest.raises(KeyboardInterrupt):
        stages.run_annotation(killed, "reference")
    assert not stages.annotation_is_done(killed, "reference")
    again = replace(killed, session=cast(Session, InProcess(num_slots=2)))
    with counted_responses(second):
        stages.run_annotation(again, "reference")
    assert 0 < num_responses(first) < total
    twice = num_responses(first) + num_responses(second) - total
    accept("D6", "responses that a model scores more or less than once", abs(twice), at_most=0)
    assert stages.annotation_is_done(again, "reference")
    assert list((tmp_path / "work").iterdir()) == [], "parts are taken away once they are joined"
