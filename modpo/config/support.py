"""docs/support.md from the checks themselves: `python -m modpo.config.support > docs/support.md`.

Each combination of a form of data, a kind of reward and a loss is put into a sweep file and checked, so the page says
what `modpo validate` says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, get_args

from modpo.config.checks import check_tree
from modpo.config.load import parse_config
from modpo.config.tree import LossType
from modpo.errors import Problem

FORMS: dict[str, dict[str, Any]] = {
    "pairs": {"columns": {}},
    "pairs, implicit prompt": {"columns": {"prompt": None}},
    "scored responses": {"scored": {"score": "score"}},
    "ranked responses": {"ranked": {"scores": "scores"}},
    "compared responses": {"compared": {"label": "label"}},
    "a named data set": {"named": {"dataset": "pku-saferlhf", "dimension": "helpful"}},
    "prompts only": {},
}
REWARDS: dict[str, dict[str, Any] | None] = {
    "own DPO model": None,
    "adapter": {"type": "implicit", "adapter": "adapter", "adapter_beta": 0.1},
    "function": {"type": "function", "function": "module:function"},
    "reward model": {"type": "model", "name_or_path": "org/reward-model"},
    "columns": {"type": "columns"},
    "trained, bradley-terry": {"type": "trained"},
    "trained, regression": {"type": "trained", "loss": "regression", "data": {"path": "scores.jsonl"}},
}
LOSSES: tuple[str, ...] = get_args(LossType)
MODELS: dict[str, dict[str, Any]] = {
    "adapter": {},
    "adapter on 4 bits": {"load_in_4bit": True},
    "all weights": {"lora": None},
    "all weights in 4 bits": {"lora": None, "load_in_4bit": True},
}
TRAININGS: dict[str, dict[str, Any]] = {
    **{f"ZeRO {stage}": {"training": {"deepspeed": {"stage": stage}}} for stage in (0, 1, 2, 3)},
    "early stopping": {"training": {"early_stopping": {}}},
    "early stopping, ZeRO 3": {"training": {"early_stopping": {}, "deepspeed": {"stage": 3}}},
    "sft of all weights": {"sft": {}},
    "sft of an adapter": {"sft": {"lora": {}}},
}
BESIDE_ONE = {"scored responses": "score", "ranked responses": "scores"}

HEAD = """\
# What goes together

<!-- Written by `python -m modpo.config.support > docs/support.md`: change the checks in modpo/config/checks.py. -->

Every form of data, kind of reward and loss, as `modpo validate` judges a sweep of two objectives that both have them.
Objectives of one sweep need not be alike: each has its own data and its own reward.
"""
ENGINE = """\
## Models and engines

Models in 4 bits also need workers with a GPU (MS-403) and the package bitsandbytes (MS-404): `modpo validate` looks for
both on this machine. Precision, offload to host memory and other world sizes, with the tests of each, are on
[what can be trained](training-support.md).
"""


def combination(form: str, reward: str, loss_type: str) -> dict[str, Any]:
    """A sweep file, as a tree, whose two objectives have this form of data and this kind of reward."""
    objective: dict[str, Any] = {"reward": REWARDS[reward]}
    if form != "prompts only":
        objective["pairs"] = {"path": "rows.jsonl", **FORMS[form]}
    if reward == "columns":
        columns = {"score": BESIDE_ONE[form]} if form in BESIDE_ONE else {"chosen": "a", "rejected": "b"}
        objective["reward"] = {"type": "columns", **columns}
    return {
        "name": "combination",
        "model": {"name_or_path": "org/model"},
        "objectives": [{"name": name, **objective} for name in ("first", "second")],
        "label": {"prompts": {"path": "prompts.jsonl"}} if form == "prompts only" else None,
        "training": {"loss_type": loss_type},
        "sweep": {"weights": {"lattice": 2}},
    }


def judge(form: str, reward: str, loss_type: str) -> list[Problem]:
    """Why a combination is refused; empty where it is not."""
    return check_tree(parse_config(combination(form, reward, loss_type)))


def judge_training(model: str, training: str) -> list[Problem]:
    """Why a kind of trained model is refused under this engine or with this stage; empty where it is not."""
    sweep = combination("pairs", "function", "sigmoid")
    sweep["model"] |= MODELS[model]
    return check_tree(parse_config(sweep | TRAININGS[training]))


def support_page() -> str:
    """The tables as Markdown, each with its reasons: data by reward, and trained models by engine."""
    refused = {key: problems for key in product(FORMS, REWARDS, LOSSES) if (problems := judge(*key))}
    trained = {key: problems for key in product(MODELS, TRAININGS) if (problems := judge_training(*key))}
    data = (*_data_table(refused), "", *_reasons(refused.values()))
    return "\n".join((HEAD, *data, "", ENGINE, *_training_table(), "", *_reasons(trained.values()), ""))


Refused = dict[tuple[str, str, str], list[Problem]]


def _training_table() -> Iterator[str]:
    yield f"| what is trained | {' | '.join(TRAININGS)} |"
    yield f"| --- |{' --- |' * len(TRAININGS)}"
    for model in MODELS:
        refused = [judge_training(model, training) for training in TRAININGS]
        yield f"| {model} | {' | '.join(f'no: {found[0].code}' if found else 'yes' for found in refused)} |"


def _data_table(refused: Refused) -> Iterator[str]:
    yield f"| data \\ reward | {' | '.join(REWARDS)} |"
    yield f"| --- |{' --- |' * len(REWARDS)}"
    for form in FORMS:
        yield f"| {form} | {' | '.join(_cell(form, reward, refused) for reward in REWARDS)} |"


def _cell(form: str, reward: str, refused: Refused) -> str:
    """The losses that are possible, or the first reason why none is."""
    possible = [loss for loss in LOSSES if (form, reward, loss) not in refused]
    if not possible:
        return f"no: {refused[form, reward, LOSSES[0]][0].code}"
    return "all losses" if len(possible) == len(LOSSES) else ", ".join(possible)


def _reasons(refused: Iterable[list[Problem]]) -> Iterator[str]:
    shown: dict[str, Problem] = {}
    for problems in refused:
        shown.setdefault(problems[0].code, problems[0])
    for code, problem in sorted(shown.items()):
        yield f"- **{code}**: {problem.what.replace(chr(39) + 'first' + chr(39), 'it')}. Wanted: {problem.wanted}."


if __name__ == "__main__":
    sys.stdout.write(support_page())
