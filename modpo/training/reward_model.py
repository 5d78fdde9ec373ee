"""Trains an objective's reward model: a classifier with one output, on the objective's pairs or on scored responses.

Bradley-Terry: loss -log sigmoid(r(chosen) - r(rejected)); higher is better, since pairs say what is.
Regression: mean squared error against the numbers as they stand in the data; the objective's direction is applied when
the model scores, once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn import functional

from modpo.artifacts import MANIFEST, is_complete, remove, verified, write_json, writing
from modpo.config.rewards import TrainedReward
from modpo.config.spec import Work
from modpo.core.workload import Workload
from modpo.data.prepared import prompt_value, read_pairs
from modpo.errors import InputError, Problem
from modpo.models import checkpoint_activations
from modpo.rewards.classifier import Classifier, ClassifierSource, load_classifier
from modpo.rewards.quality import calibration, pair_accuracy, regression_errors
from modpo.rewards.rendering import Tokens
from modpo.rewards.scorers import plain_template
from modpo.training.checkpoint import Checkpoints
from modpo.training.engine import DeepSpeedEngine
from modpo.training.loop import Hook, Training, train
from modpo.training.process_group import barrier
from modpo.training.step import MicroBatch, MicroBatchResult, TrainEngine

Split = Literal["train", "eval"]
Text = tuple[Any, str]
"""Prompt (text or messages) and response."""


@dataclass(frozen=True)
class Examples:
    """N comparisons or scored responses of one split.

    Attributes:
        texts: for Bradley-Terry the N chosen and then the N rejected texts, for a regression N texts.
        targets: for a regression the N raw numbers; None for Bradley-Terry.
    """

    texts: list[Text]
    targets: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.texts) // 2 if self.targets is None else len(self.texts)

    @property
    def prompts(self) -> list[str]:
        """One text for each example, equal where the prompt is."""
        return [json.dumps(prompt) for prompt, _ in self.texts[: len(self)]]

    @property
    def scale(self) -> tuple[float, float]:
        """(standard deviation, mean) of the targets: what the output 1 and the output 0 stand for."""
        return (1.0, 0.0) if self.targets is None else (float(self.targets.std()), float(self.targets.mean()))


def train_reward_model(work: Work, *, hooks: Sequence[Hook] = ()) -> int:
    """Trains the reward model of `work.objective` and commits it with `metrics.json` to `work.output`.

    All ranks call it. All weights are trained; they are stored, and score, in float32. Returns the number of steps.

    Raises:
        InputError: there is nothing to train on, or the model cannot be loaded.
    """
    examples = read_examples(work, "train")
    _check_examples(work, examples)
    output, trained = Path(work.output), _work_dir(work) / "model"
    steps, device = _fit(work, examples, trained, hooks)
    # The stored weights are measured, through the code that scores with them.
    metrics = _held_out(work, trained, device)
    if _rank_of_all()[0] == 0 and not is_complete(output):
        with writing(output, {"stage": "reward_model", "objective": work.objective, "step": steps}) as aside:
            shutil.copytree(trained, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
            write_json(aside / "metrics.json", {**metrics, "train_examples": len(examples), "steps": steps})
    barrier()
    return steps


def read_examples(work: Work, split: Split) -> Examples:
    """What the objective's reward model is trained or measured on."""
    prepared = Path(work.inputs.prepared)
    if _reward(work).loss == "regression":
        return read_scored(prepared, split=split, objective=work.objective)
    pairs = read_pairs(prepared, split=split, objective=work.objective)
    return Examples([(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs], None)


def read_scored(prepared: Path, *, split: Split, objective: str) -> Examples:
    """Scored responses of one split from `scored_<objective>.parquet`: prompt (JSON), response, score, split."""
    rows = [
        row
        for row in pyarrow.parquet.read_table(prepared / f"scored_{objective}.parquet").to_pylist()
        if row["split"] == split
    ]
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    return Examples([(prompt_value(row["prompt"]), row["response"]) for row in rows], scores)


def _fit(work: Work, examples: Examples, folder: Path, hooks: Sequence[Hook]) -> tuple[int, torch.device]:
    """Trains and writes the model into a folder that every rank can read; returns the steps and the device."""
    reward, seed = _reward(work), work.config.seed
    torch.manual_seed(seed)  # the new head
    classifier = load_classifier(_start(work), "cpu", new_head=True)
    if reward.gradient_checkpointing:
        checkpoint_activations(classifier.model)
    tokens = classifier.tokens(examples.texts, reward, fallback=plain_template(work.config))
    engine: TrainEngine = DeepSpeedEngine(classifier.model, reward, num_workers=work.config.resources.num_workers)
    try:
        steps = train(
            engine,
            Training(
                settings=reward,
                micro_batch=_micro_batch(classifier, tokens, examples),
                num_rows=len(examples),
                seed=seed,
                checkpoints=Checkpoints(_work_dir(work), work.work_id, engine.rank),
                hooks=hooks,
            ),
        )
        parameters = engine.parameters()
        if engine.rank == 0:
            remove(folder)
            scale, offset = examples.scale
            with writing(folder, {"stage": "reward_model", "step": steps}) as aside:
                classifier.save(aside, parameters, scale=scale, offset=offset)
        barrier()
        verified(folder)
        return steps, engine.device
    finally:
        engine.close()


def _micro_batch(classifier: Classifier, tokens: Sequence[Tokens], examples: Examples) -> MicroBatch:
    """The loss on examples by index; a regression learns standardised targets."""
    scale, offset = examples.scale

    def bradley_terry(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
        both = [tokens[row] for row in rows] + [tokens[row + len(examples)] for row in rows]
        chosen, rejected = classifier.outputs(both, model=model)[:, 0].chunk(2)
        losses = -functional.logsigmoid(chosen - rejected)
        loss = losses.mean()
        gaps = (chosen - rejected).detach()
        accuracy = (gaps > 0).double() + 0.5 * (gaps == 0).double()
        return MicroBatchResult(
            loss,
            {"loss": loss.detach(), "rewards/margins": gaps.mean(), "rewards/accuracies": accuracy.mean()},
            _padded_workload(both),
            row_losses=losses.detach(),
        )

    def regression(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
        read = [tokens[row] for row in rows]
        outputs = classifier.outputs(read, model=model)[:, 0]
        assert examples.targets is not None
        wanted = torch.from_numpy((examples.targets[rows] - offset) / scale).to(outputs.device)
        losses = functional.mse_loss(outputs, wanted, reduction="none")
        loss = losses.mean()
        return MicroBatchResult(loss, {"loss": loss.detach()}, _padded_workload(read), row_losses=losses.detach())

    return bradley_terry if examples.targets is None else regression


def _padded_workload(sequences: Sequence[Tokens]) -> Workload:
    """Operations of a classifier are not counted."""
    lengths = [len(ids) for ids in sequences]
    return Workload(tokens=sum(lengths), padded_tokens=len(lengths) * max(lengths), flops=None)


def _held_out(work: Work, folder: Path, device: torch.device) -> dict[str, Any]:
    """Quality of the stored model on the held-out examples, shared out over the ranks; the same on all of them."""
    examples, reward = read_examples(work, "eval"), _reward(work)
    rank, world_size = _rank_of_all()
    classifier = load_classifier(ClassifierSource(str(folder)), str(device))
    share = classifier.rewards(examples.texts[rank::world_size], reward, fallback=plain_template(work.config))
    rewards = np.empty(len(examples.texts))
    for owner, values in enumerate(_from_all_ranks(share.tolist())):
        rewards[owner::world_size] = values
    described = {"objective": work.objective, "loss": reward.loss, "eval_examples": len(examples)}
    if not len(examples):
        return described
    if examples.targets is not None:
        return described | regression_errors(rewards, examples.targets)
    gaps, evaluation = rewards[: len(examples)] - rewards[len(examples) :], work.config.evaluation
    accuracy = pair_accuracy(
        gaps,
        examples.prompts,
        seed=work.config.seed,
        level=evaluation.level,
        resamples=evaluation.bootstrap_resamples,
    )
    return described | {"accuracy": accuracy, **calibration(gaps)}


def _rank_of_all() -> tuple[int, int]:
    """(rank, world size)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _from_all_ranks(values: list[float]) -> list[list[float]]:
    world_size = _rank_of_all()[1]
    if world_size == 1:
        return [values]
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, values)
    return gathered


def _check_examples(work: Work, examples: Examples) -> None:
    if examples.targets is not None and len(examples) and examples.scale[0] == 0:
        got = f"{len(examples)} training responses that all have the number {examples.scale[1]:g}"
    elif not len(examples):
        got = "no training " + ("pairs" if examples.targets is None else "responses")
    else:
        return
    raise InputError(
        Problem(
            code="MS-285",
            what=f"the reward model of {work.objective!r} has nothing to learn from",
            where=f"objectives ({work.objective}).reward",
            got=got,
            wanted="training pairs, or scored responses with different numbers",
            remedy="give it data of more prompts",
        )
    )


def _reward(work: Work) -> TrainedReward:
    reward = work.config.objective(work.objective).reward
    assert isinstance(reward, TrainedReward), f"the reward of {work.objective!r} is not trained"
    return reward


def _start(work: Work) -> ClassifierSource:
    """The model that the head is put on, in the precision of the run's forward passes."""
    model, name = work.config.model, _reward(work).name_or_path
    if name is None:
        return ClassifierSource(work.inputs.start_model, model.revision, model.dtype)
    return ClassifierSource(name, None, model.dtype)


def _work_dir(work: Work) -> Path:
    return Path(work.run_dir) / "work" / work.work_id
