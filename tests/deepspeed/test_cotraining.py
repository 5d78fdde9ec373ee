"""Points trained together against the same points trained alone: losses, weights, checkpoints, and what ends them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modpo.artifacts import folder_digest
from modpo.config.spec import Work
from modpo.errors import TrialError
from modpo.ledger import final_dir, point_dir
from modpo.models import load_model, trained_model
from modpo.training import cotraining
from modpo.training.cotraining import NotTogetherError, train_together
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from modpo.training.step import MicroBatchResult
from tests.deepspeed.trainings import (
    LORA,
    InterruptedTrainingError,
    flat,
    interrupt_at,
    mixtures,
    point_work,
    sweep_config,
    worst_relative,
)

TOLERANCE = 1e-5


@dataclass
class Recorded:
    """The metrics of one point, step by step."""

    rows: list[Progress] = field(default_factory=list)

    def hook(self) -> Hook:
        def run(progress: Progress) -> bool:
            self.rows.append(progress)
            return False

        return Hook(1, run)

    def values(self, name: str) -> list[float]:
        return [row.metrics[name] for row in self.rows]


def together(works: Sequence[Work], *, hooks: Sequence[Hook] = ()) -> list[Recorded]:
    """Trains the points together; the given hooks are those of the last one."""
    recorded = [Recorded() for _ in works]
    own = [[each.hook()] for each in recorded]
    own[-1] += hooks
    train_together(works, hooks=own)
    return recorded


def alone(works: Sequence[Work]) -> list[Recorded]:
    recorded = [Recorded() for _ in works]
    for work, each in zip(works, recorded, strict=True):
        train_point(work, hooks=[each.hook()])
    return recorded


def interrupted(works: Sequence[Work], *, step: int) -> None:
    with pytest.raises(InterruptedTrainingError):
        together(works, hooks=[interrupt_at(step)])


def final(work: Work) -> Path:
    assert work.trial is not None
    return final_dir(Path(work.run_dir), work.trial)


def checkpoints(work: Work) -> list[str]:
    assert work.trial is not None
    folder = point_dir(Path(work.run_dir), work.trial.trial_id) / "checkpoints"
    return sorted(path.name for path in folder.glob("step_*"))


def assert_same_training(found: Sequence[Recorded], expected: Sequence[Recorded]) -> None:
    for own, other in zip(found, expected, strict=True):
        assert [row.step for row in own.rows] == [row.step for row in other.rows]
        assert set(own.rows[0].metrics) == set(other.rows[0].metrics)
        assert own.values("optim/lr") == other.values("optim/lr")
        for name in ("loss", "optim/grad_norm", "logps/chosen"):
            assert worst_relative(own.values(name), other.values(name)) <= TOLERANCE, name


def assert_close_weights(works: Sequence[Work], others: Sequence[Work]) -> None:
    """To 1e-5 of their norm, over all matrices of an adapter."""
    for work, other in zip(works, others, strict=True):
        found, expected = (load_file(final(each) / "adapter_model.safetensors") for each in (work, other))
        assert found.keys() == expected.keys() != set()
        assert float((flat(found) - flat(expected)).norm() / flat(expected).norm()) <= TOLERANCE


@pytest.fixture(scope="module")
def limit(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """A norm that gradients of the first point exceed in half of the steps."""
    config = sweep_config(run_dir, lora=LORA, max_grad_norm=1e6)
    (recorded,) = alone(mixtures(tmp_path_factory.mktemp("unclipped"), run_dir, config)[:1])
    return statistics.median(recorded.values("optim/grad_norm"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"gradient_checkpointing": True, "weight_decay": 0.1},
    ],
    ids=["plain", "accumulated", "checkpointed"],
)
def test_each_point_trains_as_it_does_alone(
    run_dir: Path, tmp_path: Path, limit: float, settings: dict[str, Any]
) -> None:
    config = sweep_config(run_dir, lora=LORA, max_grad_norm=limit, save_steps=10, **settings)
    grouped, single = (mixtures(tmp_path / name, run_dir, config) for name in ("together", "alone"))
    found, expected = together(grouped), alone(single)
    assert_same_training(found, expected)
    assert_close_weights(grouped, single)
    norms = expected[0].values("optim/grad_norm")
    assert max(norms) > limit > min(norms), "some steps must be clipped, and some not"
    assert found[0].values("loss")[1:] != found[1].values("loss")[1:]


def test_what_is_left_has_the_names_and_forms_of_a_point_alone(run_dir: Path, tmp_path: Path) -> None:
    config = sweep_config(run_dir, lora=LORA, max_steps=4, save_steps=2)
    grouped, single = (mixtures(tmp_path / name, run_dir, config) for name in ("together", "alone"))
    together(grouped)
    alone(single)
    for work, other in zip(grouped, single, strict=True):
        ours, theirs = (
            {path.relative_to(each.run_dir): path for path in Path(each.run_dir).rglob("*") if path.is_file()}
            for each in (work, other)
        )
        assert ours.keys() == theirs.keys()
        for name in ours:
            if name.suffix == ".safetensors" and "rng" not in name.name:
                stored, expected = load_file(ours[name]), load_file(theirs[name])
                assert {key: (t.shape, t.dtype) for key, t in stored.items()} == {
                    key: (t.shape, t.dtype) for key, t in expected.items()
                }
        configs = [
            json.loads((final(each) / "adapter_config.json").read_text(encoding="utf-8")) for each in (work, other)
        ]
        assert configs[0] == configs[1]
        base = load_model(config.model, path=str(run_dir / "start"))
        with trained_model(base, config.model, final(work)) as trained, trained.reference() as reference:
            assert reference is base


def test_two_workers_train_them_as_one_trains_each_alone(run_dir: Path, two_workers: Path, tmp_path: Path) -> None:
    config = sweep_config(run_dir, lora=LORA, max_steps=8)
    single = mixtures(tmp_path, run_dir, config)
    alone(single)
    assert_close_weights(mixtures(two_workers / "together", run_dir, config), single)


def test_a_lost_group_goes_on_from_its_checkpoints_with_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    config = sweep_config(run_dir, lora=LORA, max_steps=12, save_steps=4)
    undisturbed, lost = (mixtures(tmp_path / name, run_dir, config) for name in ("undisturbed", "lost"))
    expected = together(undisturbed)
    interrupted(lost, step=10)
    assert [checkpoints(work) for work in lost] == [["step_000004", "step_000008"]] * 3
    found = together(lost)
    for own, other in zip(found, expected, strict=True):
        assert own.values("loss") == other.values("loss")[8:]
    assert [folder_digest(final(work)) for work in lost] == [folder_digest(final(work)) for work in undisturbed]


def test_a_point_of_a_lost_group_can_go_on_alone(run_dir: Path, tmp_path: Path) -> None:
    config = sweep_config(run_dir, lora=LORA, max_steps=12, save_steps=4)
    lost, single = (mixtures(tmp_path / name, run_dir, config) for name in ("lost", "alone"))
    interrupted(lost, step=10)
    found, expected = alone(lost), alone(single)
    assert [row.step for row in found[0].rows] == [9, 10, 11, 12]
    cut = [replace(each, rows=each.rows[8:]) for each in expected]
    assert_same_training(found, cut)
    assert_close_weights(lost, single)


def test_points_that_were_lost_alone_can_go_on_together(run_dir: Path, tmp_path: Path) -> None:
    config = sweep_config(run_dir, lora=LORA, max_steps=12, save_steps=4)
    lost, single = (mixtures(tmp_path / name, run_dir, config) for name in ("lost", "alone"))
    for work in lost:
        with pytest.raises(InterruptedTrainingError):
            train_point(work, hooks=[interrupt_at(6)])
    found, expected = together(lost), alone(single)
    cut = [replace(each, rows=each.rows[4:]) for each in expected]
    assert_same_training(found, cut)
    assert_close_weights(lost, single)


class TestNotTogether:
    def refusal(self, works: Sequence[Work]) -> str:
        before = [checkpoints(work) for work in works]
        with pytest.raises(NotTogetherError) as caught:
            together(works)
        assert [checkpoints(work) for work in works] == before
        assert not any(final(work).exists() for work in works)
        return str(caught.value)

    def test_at_different_steps(self, run_dir: Path, tmp_path: Path) -> None:
        config = sweep_config(run_dir, lora=LORA, max_steps=8, save_steps=2)
        works = mixtures(tmp_path, run_dir, config)
        with pytest.raises(InterruptedTrainingError):
            train_point(works[1], hooks=[interrupt_at(5)])
        assert self.refusal(works) == "their newest checkpoints are none, step_000004, none"

    def test_other_pairs(self, run_dir: Path, tmp_path: Path) -> None:
        config = sweep_config(run_dir, lora=LORA)
        works = mixtures(tmp_path, run_dir, config)[:1]
        other = point_work(run_dir, config, trial_id="other", weights=(0.2, 0.8))
        works.append(other.model_copy(update={"run_dir": str(tmp_path)}))
        assert self.refusal(works) == "they train on different pairs"

    def test_all_weights(self, run_dir: Path, tmp_path: Path) -> None:
        config = sweep_config(run_dir, lora=None)
        assert self.refusal(mixtures(tmp_path, run_dir, config)).startswith("more than plain LoRA layers trains")


def test_when_one_diverges_all_keep_their_checkpoints(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sixth batch of the second point has an infinite loss; each can go on alone from the fourth."""
    config = sweep_config(run_dir, lora=LORA, max_steps=8, save_steps=2)
    works = mixtures(tmp_path, run_dir, config)
    plain, calls = cotraining.preference_result, []

    def broken(*arguments: Any) -> MicroBatchResult:
        calls.append(1)
        result = plain(*arguments)
        return replace(result, loss=result.loss * float("inf")) if len(calls) == 3 * 5 + 2 else result

    monkeypatch.setattr(cotraining, "preference_result", broken)
    with pytest.raises(TrialError) as failure:
        together(works)
    assert failure.value.problems[0].what == "loss and optim/grad_norm not finite at step 6"
    assert [checkpoints(work) for work in works] == [["step_000002", "step_000004"]] * 3
    found = alone(works)
    assert [row.step for row in found[0].rows] == [5, 6, 7, 8]
    assert all(final(work).exists() for work in works)


def test_the_frozen_model_keeps_every_bit(run_dir: Path, tmp_path: Path) -> None:
    config = sweep_config(run_dir, lora=LORA, max_steps=5, weight_decay=0.1)
    start = load_model(config.model, path=str(run_dir / "start")).state_dict()
    seen: list[str] = []

    def look(progress: Progress) -> bool:
        for name, parameter in progress.model.named_parameters():
            if "lora_" not in name and progress.step == 5:
                plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
                assert torch.equal(parameter, start[plain]), name
                assert not parameter.requires_grad and parameter.grad is None
                seen.append(plain)
        return False

    together(mixtures(tmp_path, run_dir, config), hooks=[Hook(1, look)])
    assert set(seen) == set(start)
