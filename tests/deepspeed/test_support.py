"""Every form of data with every kind of reward and every loss: what the checks accept is trained and measured."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from modpo.config import parse_config
from modpo.config.support import FORMS, LOSSES, REWARDS, combination, judge, support_page
from modpo.models import attach_adapter, load_model
from modpo.orchestration.stages import RunState
from tests.deepspeed.whole_sweeps import measure_trial, open_run, train_trial

FUNCTIONS = ("modpo.rewards.rules:brevity", "tests.deepspeed.whole_sweeps:count_e")
ACCEPTED = [(form, reward) for form in FORMS for reward in REWARDS if not judge(form, reward, "sigmoid")]
STEPS = 3
NUM_PAIRS = 40
Open = Callable[[str, str, str], RunState]


def test_the_page_is_the_one_of_the_checks(repository: Path) -> None:
    assert (repository / "docs" / "support.md").read_text(encoding="utf-8") == support_page()


def test_most_combinations_make_sense() -> None:
    """Six forms of pairs with seven kinds of reward, and prompts with the four that score new responses."""
    assert len(ACCEPTED) == 6 * 7 + 4
    assert all(not judge(form, reward, loss) for form, reward in ACCEPTED for loss in LOSSES)


def rows_of(form: str, pairs: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Pairs of the demo in another form; `a`, `b` and `score` count characters, which the label does not follow."""
    for number, pair in enumerate(pairs):
        prompt, chosen, rejected = pair["prompt"], pair["chosen"], pair["rejected"]
        lengths = {"a": len(chosen), "b": len(rejected)}
        if form == "pairs":
            yield {**pair, **lengths}
        elif form == "pairs, implicit prompt":
            yield {"chosen": f"{prompt} {chosen}", "rejected": f"{prompt} {rejected}", **lengths}
        elif form == "scored responses":
            yield {"prompt": prompt, "response": chosen, "score": len(chosen)}
            yield {"prompt": prompt, "response": rejected, "score": len(rejected)}
        elif form == "ranked responses":
            yield {"prompt": prompt, "responses": [chosen, rejected], "scores": [len(chosen), len(rejected)]}
        else:
            # The better one stands first in every other row.
            texts = (chosen, rejected) if number % 2 == 0 else (rejected, chosen)
            numbers = {"a": len(texts[0]), "b": len(texts[1])}
            named = {"better_response_id": number % 2, "safer_response_id": number % 2}
            yield {
                "prompt": prompt,
                "response_0": texts[0],
                "response_1": texts[1],
                "label": number % 2,
                **named,
                **numbers,
            }


@pytest.fixture(scope="module")
def material(demo_world: Path, one_worker: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of every form, prompts, numbers to regress on, an adapter and a classifier."""
    folder = tmp_path_factory.mktemp("material")
    lines = (demo_world / "vivid.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [pair for pair in map(json.loads, lines) if pair["chosen"] != pair["rejected"]][:NUM_PAIRS]

    def write(name: str, rows: Iterator[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    for number, form in enumerate(FORMS):
        write(f"{number}.jsonl", rows_of(form, pairs))
    write("prompts.jsonl", ({"prompt": prompt} for prompt in sorted({pair["prompt"] for pair in pairs})))
    write("scores.jsonl", rows_of("scored responses", pairs))
    tokenizer = AutoTokenizer.from_pretrained(demo_world / "model")
    tiny = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForSequenceClassification.from_config(tiny).save_pretrained(folder / "classifier")
    tokenizer.save_pretrained(folder / "classifier")
    config = parse_config(combination("pairs", "function", "sigmoid") | {"model": model(demo_world)})
    assert config.model.lora is not None
    adapter = attach_adapter(load_model(config.model), config.model.lora, seed=1)
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            # As a training would leave it: with B at zero the adapter's reward never differs.
            torch.nn.init.normal_(parameter, std=0.05)
    adapter.save_pretrained(folder / "adapter")
    return folder


def model(world: Path) -> dict[str, Any]:
    return {"name_or_path": str(world / "model"), "dtype": "float32", "lora": {"r": 2}}


def sweep(material: Path, world: Path, form: str, reward: str, loss: str) -> dict[str, Any]:
    """The combination as a sweep that can run: files for its names, and a few steps."""
    raw = combination(form, reward, loss)
    raw["model"] = model(world)
    raw["data"] = {"template": "{prompt}\n", "eval_fraction": 0.2, "unusable_rows": "drop"}
    raw["training"] |= {"max_steps": STEPS, "per_device_train_batch_size": 4, "beta": 0.5, "learning_rate": 1e-3}
    raw["evaluation"] = {"num_prompts": 2, "samples_per_prompt": 2, "max_new_tokens": 8, "bootstrap_resamples": 20}
    if raw["label"]:
        raw["label"] = {"prompts": {"path": str(material / "prompts.jsonl")}, "max_new_tokens": 8, "max_prompts": 8}
    for objective, function in zip(raw["objectives"], FUNCTIONS, strict=True):
        if objective.get("pairs"):
            objective["pairs"]["path"] = str(material / f"{list(FORMS).index(form)}.jsonl")
        objective["reward"] = located(objective["reward"], material, function)
    return raw


def located(reward: dict[str, Any] | None, material: Path, function: str) -> dict[str, Any] | None:
    if reward is None:
        return None
    changes: dict[str, dict[str, Any]] = {
        "implicit": {"adapter": str(material / "adapter")},
        "function": {"function": function},
        "model": {"name_or_path": str(material / "classifier"), "template": "{prompt} {response}"},
        "trained": {
            "name_or_path": str(material / "classifier"),
            "template": "{prompt} {response}",
            "max_steps": 2,
            "per_device_train_batch_size": 4,
        },
        "columns": {},
    }
    found = {**reward, **changes[reward["type"]]}
    return found | ({"data": {"path": str(material / "scores.jsonl")}} if "data" in reward else {})


@pytest.fixture(scope="module")
def opened(material: Path, demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Everything up to the annotation, once for the combinations that share it."""

    @functools.cache
    def run(form: str, reward: str, loss: str) -> RunState:
        config = parse_config(sweep(material, demo_world, form, reward, loss))
        return open_run(config, tmp_path_factory.mktemp("run"))

    return run


def train_and_measure(state: RunState, loss: str) -> None:
    """The mixed point: trained to its last step, its weights moved, and both objectives measured as finite numbers."""
    trial = next(trial for trial in state.plan.points if max(trial.weights) < 1)
    assert trial.loss_type == loss and trial.uses_rewards
    train_trial(state, trial)
    measured = measure_trial(state, trial)
    assert measured["kl"]["value"] > 0, "an untrained policy has no KL to its reference"
    assert all(math.isfinite(estimate["value"]) for estimate in measured["objectives"].values())


@pytest.mark.parametrize(("form", "reward"), ACCEPTED, ids=[f"{form}-{reward}" for form, reward in ACCEPTED])
def test_data_with_reward(opened: Open, form: str, reward: str) -> None:
    state = opened(form, reward, "sigmoid")
    table = pyarrow.parquet.read_table(Path(state.inputs.rewards) / "table.parquet")
    values = np.stack([table[name].to_numpy() for name in table.column_names[1:]])
    assert table.num_rows > 0 and np.isfinite(values).all()
    assert values.reshape(2, -1).std(axis=1).min() > 0, "a reward that never differs"
    train_and_measure(state, "sigmoid")


@pytest.mark.parametrize("loss", LOSSES[1:])
@pytest.mark.parametrize("form", ["pairs", "prompts only"])
def test_every_loss(opened: Open, form: str, loss: str) -> None:
    train_and_measure(opened(form, "function", loss), loss)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES[1:])
@pytest.mark.parametrize(("form", "reward"), ACCEPTED, ids=[f"{form}-{reward}" for form, reward in ACCEPTED])
def test_data_with_reward_and_loss(opened: Open, form: str, reward: str, loss: str) -> None:
    train_and_measure(opened(form, reward, loss), loss)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("ranked responses", "scored responses")])
def test_a_swapped_label_would_show(opened: Open, form: str) -> None:
    """The columns count characters of each response: they must stay beside the response that they counted."""
    if (form, "columns") not in ACCEPTED:
        pytest.skip("sampled responses have no columns")
    state = opened(form, "columns", "sigmoid")
    pairs = pyarrow.parquet.read_table(Path(state.inputs.training_pairs) / "pairs.parquet").to_pylist()
    assert pairs
    for pair in pairs:
        if form != "pairs, implicit prompt":
            counted = [pair[f"column_{pair['objective']}_{side}"] for side in ("chosen", "rejected")]
            assert counted == [len(pair["chosen"]), len(pair["rejected"])]
