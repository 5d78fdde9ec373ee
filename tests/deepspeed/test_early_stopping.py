"""Looks at a policy in training: measured as trained points are, and without a trace in what is trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from modpo.artifacts import folder_digest
from modpo.evaluation.early_stopping import early_stopping_hook
from modpo.ledger import final_dir, point_dir
from modpo.training.loop import Hook
from modpo.training.point import train_point
from tests.deepspeed.trainings import KINDS, point_work, sweep_config

STEPS, EVERY = 6, 2


@pytest.mark.parametrize("kind", KINDS)
def test_looks_change_nothing_of_the_training(run_dir: Path, tmp_path: Path, kind: str):
    looks = {"every_steps": EVERY, "patience": 100, "num_prompts": 4}
    config = sweep_config(run_dir, lora=KINDS[kind], max_steps=STEPS, early_stopping=looks)
    digests = []
    for name in ("looked at", "undisturbed"):
        work = point_work(run_dir, config).model_copy(update={"run_dir": str(tmp_path / name)})
        assert work.trial is not None
        hooks: list[Hook] = []
        if name == "looked at":
            hooks = [early_stopping_hook(work, rank=0, world_size=1, device=torch.device("cpu"))]
        assert train_point(work, hooks=hooks) == STEPS
        digests.append(folder_digest(final_dir(tmp_path / name, work.trial)))
    assert digests[0] == digests[1]
    stored = point_dir(tmp_path / "looked at", work.trial.trial_id) / "early_stopping.json"
    values = json.loads(stored.read_text(encoding="utf-8"))
    assert sorted(map(int, values)) == [2, 4, 6]
    assert all(math.isfinite(value) for value in values.values())
