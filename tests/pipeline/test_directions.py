"""Where the models of a real sweep go: shorter with brevity, up with every weight, as far as a DPO of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from modpo.data.demo import world
from modpo.data.demo.rewards import brief, enumerate_answers, vivid
from modpo.data.prepared import read_held_out, read_pairs
from modpo.data.tokenize import load_tokenizer
from modpo.scoring import ResponseModel, completion_logps
from modpo.training.schedule import SampleOrder
from tests.acceptance.plugin import Accept
from tests.conftest import REPOSITORY
from tests.pipeline.conftest import BUSY_TIMEOUT_S, FinishedRun, Shell
from tests.pipeline.sampling import sampled_texts

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]

REWARDS = {"vivid": vivid, "brief": brief}
SEED = 0
CORPUS_SIZE, PAIRS_PER_OBJECTIVE = 6000, 6000
SFT_STEPS, STEPS, BATCH = 500, 300, 32
BETA, LEARNING_RATE = 0.5, 1.0e-3
NUM_PROMPTS, SAMPLES, PREVIEW_SAMPLES = 32, 64, 32
LONGEST_ANSWER, LONGEST = 24, 64
NORMAL_97_5 = 1.959964
SMALLER = {
    "sft.max_steps": SFT_STEPS,
    "training.max_steps": STEPS,
    "training.learning_rate": LEARNING_RATE,
    "training.per_device_train_batch_size": BATCH,
    "sweep.weights.lattice": 4,
    "data.eval_fraction": 0.25,
    "evaluation.num_prompts": NUM_PROMPTS,
    "evaluation.samples_per_prompt": SAMPLES,
    "evaluation.batch_size": 512,
    "evaluation.bootstrap_resamples": 200,
    "evaluation.enumerate": "null",
}
Values = NDArray[np.float64]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The shipped demo in small: half its world, fewer steps, five weights. Labels are drawn from Bradley-Terry."""
    shell = Shell(tmp_path_factory.mktemp("directions"), timeout_s=BUSY_TIMEOUT_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "CORPUS_SIZE", CORPUS_SIZE)
        patch.setattr(world, "PAIRS_PER_OBJECTIVE", PAIRS_PER_OBJECTIVE)
        world.write_world(shell.folder / "world", seed=SEED)
    demo = (REPOSITORY / "ray_jobs" / "configs" / "demo.yaml").read_text(encoding="utf-8")
    config = shell.folder / "demo.yaml"
    config.write_text(demo.replace("demo:", f"{shell.folder}/world/"), encoding="utf-8")
    done = shell.modpo("run", config, *(f for key, value in SMALLER.items() for f in ("--set", f"{key}={value}")))
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(shell, {}, config, shell.folder / "runs" / "demo", done.stdout + done.stderr)


@pytest.fixture(scope="module")
def points(front: FinishedRun) -> list[dict[str, Any]]:
    """By rising weight on brevity."""
    found: list[dict[str, Any]] = sorted(front.summary["points"], key=lambda point: point["weights"]["brief"])
    assert [point["weights"]["brief"] for point in found] == [0, 0.25, 0.5, 0.75, 1]
    assert all(point["num_samples"] == NUM_PROMPTS * SAMPLES for point in found)
    return found


@pytest.fixture(scope="module")
def values(points: list[dict[str, Any]]) -> Values:
    """(5, 2) mean rewards of sampled responses to held-out prompts: vivid, brief."""
    return np.array([[point["objectives"][name]["value"] for name in REWARDS] for point in points])


@pytest.fixture(scope="module")
def trained(front: FinishedRun, points: list[dict[str, Any]]) -> list[PreTrainedModel]:
    return [opened(front.path / point["checkpoint"]) for point in points]


def test_responses_get_shorter_as_brevity_gets_heavier(points: list[dict[str, Any]], accept: Accept) -> None:
    """Every word costs 0.6 whatever it is: brevity is minus the length, with a constant."""
    weights, lengths = ([point["weights"]["brief"] for point in points], [point["length"] for point in points])
    found = spearman(np.array(weights), np.array(lengths))
    accept("F1", "Spearman correlation of mean length with the weight on brevity", found, at_most=-0.9)
    assert lengths[-1] < lengths[0] - 1, "whole words"


def test_both_values_rise_with_their_own_weights(values: Values, accept: Accept) -> None:
    rises = np.concatenate([-np.diff(values[:, 0]), np.diff(values[:, 1])])
    accept("F2", "least rise of a value from one weight to the next, in reward units", rises.min(), at_least=0)


def test_the_front_is_nowhere_below_the_chord_of_its_ends(values: Values, accept: Accept) -> None:
    """On the chord the shares of the two ranges add up to 1; a point above it dominates part of it."""
    best, worst = np.array([values[0, 0], values[-1, 1]]), np.array([values[-1, 0], values[0, 1]])
    shares = ((values - worst) / (best - worst)).sum(axis=1)
    accept("F2", "least height above the chord of the ends, in ranges", shares[1:-1].min() - 1, at_least=0)


def test_a_mixture_of_the_ends_previews_the_trained_points(
    front: FinishedRun, points: list[dict[str, Any]], values: Values, trained: list[PreTrainedModel], accept: Accept
) -> None:
    """The two ends multiplied token by token, each to the power of its weight, against what was trained."""
    ends = trained[0], trained[-1]
    mixtures = [list(zip(ends, (point["weights"][name] for name in REWARDS), strict=True)) for point in points]
    previews = np.array([sampled_values(front, mixture) for mixture in mixtures])
    for column in range(len(REWARDS)):
        found = spearman(previews[:, column], values[:, column])
        accept("F2", "Spearman correlation of a preview's values with the trained ones", found, at_least=0.8)


def test_the_end_of_the_front_is_as_good_as_a_dpo_training_of_its_own(
    front: FinishedRun,
    points: list[dict[str, Any]],
    trained: list[PreTrainedModel],
    tmp_path: Path,
    accept: Accept,
) -> None:
    """TRL's DPOTrainer from the same start on the same pairs in the same order.

    Both means are exact, over all answers; the standard error is that of the difference of two sampled ones.
    """
    estimate = points[0]["objectives"]["vivid"]
    standard_error = math.sqrt(2) * (estimate["high"] - estimate["low"]) / (2 * NORMAL_97_5)
    start, ours, separate = (
        exact_vividness(front, model)
        for model in (opened(artefact(front, "start_model")), trained[0], opened(trl_training(front, tmp_path)))
    )
    assert ours > start + 10 * standard_error, "a training that goes nowhere would agree with any other"
    accept("F3", "difference of mean rewards, in standard errors", abs(ours - separate) / standard_error, at_most=2)


def sampled_values(front: FinishedRun, mixture: list[tuple[PreTrainedModel, float]]) -> list[float]:
    """Mean of each reward over samples of a mixture for every held-out prompt."""
    prepared = artefact(front, "prepared")
    held_out = read_held_out(prepared, limit=NUM_PROMPTS)
    prompts = [prompt for prompt in held_out for _ in range(PREVIEW_SAMPLES)]
    tokenizer = load_tokenizer(str(prepared / "tokenizer"))
    texts = sampled_texts(mixture, tokenizer, [p.prompt_ids for p in prompts], max_new_tokens=LONGEST_ANSWER, seed=SEED)
    return [float(np.mean(reward([p.prompt for p in prompts], texts))) for reward in REWARDS.values()]


def exact_vividness(front: FinishedRun, model: PreTrainedModel) -> float:
    """Mean reward over the answers that the demo's language has to the held-out prompts, by their probability."""
    prepared = artefact(front, "prepared")
    tokenizer = load_tokenizer(str(prepared / "tokenizer"))
    listed = [(p, answer) for p in read_held_out(prepared, limit=NUM_PROMPTS) for answer in enumerate_answers(p.prompt)]
    logps = completion_logps(
        ResponseModel(model, longest=LONGEST),
        [prompt.prompt_ids for prompt, _ in listed],
        [(*tokenizer(answer).input_ids, tokenizer.eos_token_id) for _, answer in listed],
        batch_size=512,
    )
    rewards = np.array(vivid([prompt.prompt for prompt, _ in listed], [answer for _, answer in listed]))
    chances, rewards = (values.reshape(NUM_PROMPTS, -1) for values in (np.exp(logps), rewards))
    return float(((chances * rewards).sum(axis=1) / chances.sum(axis=1)).mean())


def trl_training(front: FinishedRun, folder: Path) -> Path:
    """DPO on the training pairs of `vivid`, with the settings of the sweep, in its order: two orders are two models."""
    stored = read_pairs(artefact(front, "prepared"), split="train", objective="vivid")
    pairs = [stored[row] for row in SampleOrder(len(stored), seed=0).indices(0, STEPS * BATCH)]
    rows = [{"prompt": f"{pair.prompt}\n", "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "beta": BETA,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(0.05 * STEPS),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
    }
    command, start = [sys.executable, "-m", "tests.pipeline.trl_dpo"], artefact(front, "start_model")
    done = subprocess.run(
        [*command, start, folder / "pairs.jsonl", folder / "model", json.dumps(settings)],
        env=alone(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BUSY_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "model"


def alone() -> dict[str, str]:
    """This environment without what process groups of other tests have left there: TRL would wait for their ranks."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ranks}
    return kept | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def opened(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval()


def artefact(run: FinishedRun, stage: str) -> Path:
    (folder,) = (run.path / "artifacts").glob(f"{stage}-*")
    return folder


def spearman(first: Values, second: Values) -> float:
    """Of series without ties."""
    ranks = [series.argsort().argsort() for series in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])
