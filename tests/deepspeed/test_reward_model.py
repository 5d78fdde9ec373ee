"""Reward models that the run trains: they learn what their data say, and a lost worker costs no bit of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from modpo.artifacts import is_valid, read_json
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs, Work
from modpo.errors import InputError
from modpo.rewards.base import Completion
from modpo.rewards.classifier import kept_classifier
from modpo.rewards.scorers import build_scorer
from modpo.training.loop import Hook
from modpo.training.reward_model import read_examples, train_reward_model
from tests.deepspeed.trainings import InterruptedTrainingError, interrupt_at
from tests.sweeps import raw_sweep
from tests.unit.rewards.classifiers import make_tokenizer, write_classifier

FILLERS = ("fox", "dog", "rests", "runs", "at", "dawn")
NUM_ROWS = 400
LEARNING = {"learning_rate": 1e-2, "per_device_train_batch_size": 32, "max_steps": 60, "lr_scheduler_type": "linear"}


def texts(generator: random.Random, word: str, count: int) -> str:
    words = [*generator.choices(FILLERS, k=generator.randint(2, 6)), *[word] * count]
    generator.shuffle(words)
    return " ".join(words)


def table_row(number: int, **columns: Any) -> dict[str, Any]:
    return {
        "prompt": json.dumps(f"the {FILLERS[number % 6]}"),
        "split": "eval" if number % 4 == 0 else "train",
        **columns,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_worker: None) -> Path:
    """`start/`, a tiny language model, and `prepared/`: `vivid` prefers the word good to bad, `brief` is a count."""
    folder, generator = tmp_path_factory.mktemp("reward-model"), random.Random(0)
    write_classifier(folder / "start", make_tokenizer(), model=LlamaForCausalLM, initializer_range=0.1)
    pairs, scored = [], []
    for number in range(NUM_ROWS):
        good, bad = (texts(generator, word, 1) for word in ("good", "bad"))
        ids = {name: [1] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
        pairs.append(table_row(number, pair_id=str(number), objective="vivid", chosen=good, rejected=bad, **ids))
        response = " ".join(generator.choices(FILLERS, k=generator.randint(1, 12)))
        scored.append(table_row(number, response=response, score=1000.0 + 50.0 * len(response.split())))
    (folder / "prepared").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs), folder / "prepared" / "pairs.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(scored), folder / "prepared" / "scored_brief.parquet")
    return folder


def sweep(reward: dict[str, Any], objective: str, **extra: Any) -> SweepConfig:
    raw = raw_sweep(evaluation={"bootstrap_resamples": 200}, data={"template": "{prompt} "})
    raw["model"] = {"name_or_path": "unused", "dtype": extra.pop("dtype", "float32")}
    for declared in raw["objectives"]:
        if declared["name"] == objective:
            declared |= {"reward": {"type": "trained", **LEARNING, **reward}, **extra}
    return SweepConfig.model_validate(raw)


def work(folder: Path, config: SweepConfig, objective: str, run_dir: Path) -> Work:
    inputs = StageInputs(
        prepared=str(folder / "prepared"),
        start_model=str(folder / "start"),
        reward_models={objective: str(run_dir / "done")},
    )
    return Work(
        work_id="reward_model-0",
        kind="reward_model",
        run_dir=str(run_dir),
        config=config,
        inputs=inputs,
        output=str(run_dir / "done"),
        objective=objective,
    )


def score(work: Work, responses: Sequence[str]) -> np.ndarray:
    kept_classifier.cache_clear()
    objective, base = work.config.objective(work.objective), torch.nn.Linear(1, 1)
    base.device = torch.device("cpu")
    scorer = build_scorer(work.config, objective, work.inputs, base=base)  # type: ignore[arg-type]
    return scorer.score([Completion("the fox", r, (), ()) for r in responses], reference_logps=np.zeros(0))


COUNTED = {"loss": "regression", "data": {"path": "numbers.jsonl"}}


class TestBradleyTerry:
    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
        """With a direction that must not turn round what the pairs say."""
        done = work(folder, sweep({}, "vivid", direction="minimize"), "vivid", tmp_path_factory.mktemp("pairs"))
        assert train_reward_model(done) == LEARNING["max_steps"]
        return done

    def test_separable_pairs_are_told_apart_on_held_out_prompts(self, trained: Work) -> None:
        metrics = read_json(Path(trained.output) / "metrics.json")
        assert metrics["accuracy"]["value"] > 0.9
        assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
        assert (metrics["train_examples"], metrics["eval_examples"]) == (300, 100)
        assert sum(row["pairs"] for row in metrics["reliability"]) == 100
        assert metrics["expected_calibration_error"] < 0.2

    def test_it_scores_the_chosen_kind_higher_whatever_the_direction(self, trained: Work) -> None:
        good, bad = score(trained, ["fox good dog", "fox bad dog"])
        assert good > bad + 1

    def test_what_is_committed_is_a_classifier_of_its_own(self, trained: Work) -> None:
        folder = Path(trained.output)
        assert is_valid(folder)
        assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json"} <= {
            p.name for p in folder.iterdir()
        }
        config = read_json(folder / "config.json")
        assert config["architectures"] == ["LlamaForSequenceClassification"]
        assert (config["reward_scale"], config["reward_offset"]) == (1.0, 0.0)


class TestRegression:
    """1000 + 50 a word, in raw units."""

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
        config = sweep({**COUNTED, "max_steps": 200}, "brief")
        done = work(folder, config, "brief", tmp_path_factory.mktemp("numbers"))
        train_reward_model(done)
        return done

    def test_a_linear_function_of_the_length_comes_back_on_held_out_responses(self, trained: Work) -> None:
        metrics = read_json(Path(trained.output) / "metrics.json")
        assert metrics["r2"] > 0.95
        assert metrics["pearson"] > 0.95
        assert metrics["mean_absolute_error"] < 25

    @pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
    def test_direction_is_applied_when_it_scores(self, trained: Work, direction: str, sign: int) -> None:
        """The same trained model either way: it has learnt the numbers as they are."""
        turned = trained.model_copy(update={"config": sweep(COUNTED, "brief", direction=direction)})
        rewards = score(turned, ["fox " * 3, "fox dog " * 3, "fox dog runs " * 3])
        assert rewards.tolist() == pytest.approx([sign * value for value in (1150, 1300, 1450)], abs=50)

    def test_units_stand_in_the_config_of_the_model(self, trained: Work) -> None:
        stored, targets = read_json(Path(trained.output) / "config.json"), read_examples(trained, "train").targets
        assert targets is not None
        assert (stored["reward_scale"], stored["reward_offset"]) == (targets.std(), targets.mean())


def lost(run: Work, *, step: int) -> None:
    with pytest.raises(InterruptedTrainingError):
        train_reward_model(run, hooks=[interrupt_at(step)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_lost_worker_costs_no_bit(folder: Path, tmp_path: Path, stage: int, dtype: str) -> None:
    config = sweep({"max_steps": 12, "save_steps": 6, "deepspeed": {"stage": stage}}, "vivid", dtype=dtype)
    undisturbed = work(folder, config, "vivid", tmp_path / "undisturbed")
    train_reward_model(undisturbed)
    resumed = work(folder, config, "vivid", tmp_path / "resumed")
    lost(resumed, step=9)
    assert train_reward_model(resumed) == 12
    first, second = (load_file(Path(each.output) / "model.safetensors") for each in (undisturbed, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["score.weight"].dtype == torch.float32
    metrics = [read_json(Path(each.output) / "metrics.json") for each in (undisturbed, resumed)]
    assert metrics[0] == metrics[1]


def test_every_stage_trains_the_same_model(folder: Path, tmp_path: Path) -> None:
    heads = []
    for stage in (0, 3):
        config = sweep({"max_steps": 5, "deepspeed": {"stage": stage}}, "vivid")
        done = work(folder, config, "vivid", tmp_path / str(stage))
        train_reward_model(done)
        heads.append(load_file(tmp_path / str(stage) / "done" / "model.safetensors")["score.weight"])
    assert torch.allclose(*heads, atol=1e-5)


def test_hooks_see_every_step(folder: Path, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    record: Callable[[Any], bool] = lambda progress: bool(seen.append(progress.metrics))  # noqa: E731
    train_reward_model(work(folder, sweep({"max_steps": 3}, "vivid"), "vivid", tmp_path), hooks=[Hook(1, record)])
    assert len(seen) == 3
    assert {"loss", "rewards/accuracies", "rewards/margins"} <= seen[0].keys()


@pytest.mark.parametrize("split", ["none", "constant"])
def test_nothing_to_learn_from(folder: Path, tmp_path: Path, split: str) -> None:
    rows = [table_row(n, response="fox", score=1.0) for n in range(4 if split == "constant" else 1)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "scored_brief.parquet")
    run = work(folder, sweep(COUNTED, "brief"), "brief", tmp_path)
    run = run.model_copy(update={"inputs": run.inputs.model_copy(update={"prepared": str(tmp_path)})})
    with pytest.raises(InputError) as caught:
        train_reward_model(run)
    (problem,) = caught.value.problems
    assert problem.code == "MS-285"
    assert problem.got == (
        "no training responses" if split == "none" else "3 training responses that all have the number 1"
    )
