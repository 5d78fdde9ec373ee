"""Sweeps of three and five objectives that take their rewards from every source, and what each source itself says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from modpo.artifacts import read_json
from modpo.data.demo.rewards import vivid
from modpo.data.prepared import TokenisedPair
from modpo.data.tokenize import load_tokenizer
from tests.pipeline.conftest import FinishedRun, small_sweep
from tests.unit.rewards.classifiers import write_classifier

BETA = 0.5
JUDGED = "{prompt} {response}"
WEIGHTS: dict[int, list[dict[str, float]]] = {
    3: [
        {"vivid": 1.0},
        {"counted": 1.0},
        {"vivid": 0.5, "counted": 0.5},
        {"vivid": 0.2, "judged": 0.5, "counted": 0.3},
    ],
    5: [
        {"vivid": 1.0},
        {"brief": 1.0},
        {"counted": 1.0},
        {"learned": 1.0},
        {"judged": 0.6, "brief": 0.4},
        {"vivid": 0.2, "brief": 0.2, "counted": 0.2, "judged": 0.2, "learned": 0.2},
    ],
}
PRIMARIES = {3: ["vivid", "counted", "vivid", "counted"], 5: ["vivid", "brief", "counted", "learned", "brief", "vivid"]}
"""Whose pairs label each point: the heaviest objective's that has pairs, the first one's on a tie."""

Reward = Callable[[list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]], NDArray[np.float64]]
"""Rewards of (prompt, response, their tokens)."""


def mixed_sweep(world: Path, folder: Path, num_objectives: int) -> dict[str, Any]:
    """`vivid` from a function, `counted` from columns, `judged` from a classifier and without pairs.

    Of five objectives also `brief` from its own DPO vertex and `learned` from a reward model of the run's own.
    """
    raw = small_sweep(world, f"mixed{num_objectives}")
    classifier = write_classifier(folder / "classifier", load_tokenizer(str(world / "model")))
    for name in ("vivid", "brief"):
        rows = [json.loads(line) for line in (world / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        numbered = [
            row | {"a": number(row["prompt"], row["chosen"]), "b": number(row["prompt"], row["rejected"])}
            for row in rows
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8")
    first, second = (str(folder / f"{name}.jsonl") for name in ("vivid", "brief"))
    vivid_one, brief_one = raw["objectives"]
    vivid_one["pairs"], brief_one["pairs"] = {"path": first}, {"path": second}
    counted = {"name": "counted", "pairs": {"path": second}}
    counted |= {"reward": {"type": "columns", "chosen": "a", "rejected": "b"}, "normalize": "std"}
    judge = {"type": "model", "name_or_path": classifier, "template": JUDGED}
    judged = {"name": "judged", "reward": judge, "normalize": "std"}
    trained = {"type": "trained", "max_steps": 4, "per_device_train_batch_size": 8, "template": JUDGED}
    learned = {"name": "learned", "pairs": {"path": first}, "reward": trained}
    five = [vivid_one, brief_one, counted, judged, learned]
    raw["objectives"] = five if num_objectives == 5 else [vivid_one, judged, counted]
    raw["training"] |= {"beta": BETA, "max_steps": 6}
    raw["sweep"] = {"weights": {"list": WEIGHTS[num_objectives]}}
    raw["evaluation"] |= {"num_prompts": 4, "enumerate": None}
    return raw


def number(prompt: str, response: str) -> float:
    """What stands in the data beside a response: nothing that any other source would say."""
    return Random(f"{prompt}|{response}").gauss(0, 1)


def sources(run: FinishedRun) -> dict[str, Reward]:
    """What every source says of completions, each asked on a way of its own."""
    names = [objective["name"] for objective in run.raw["objectives"]]
    known: dict[str, Callable[[], Reward]] = {
        "vivid": lambda: lambda rows: np.array(vivid([r[0] for r in rows], [r[1] for r in rows])),
        "counted": lambda: lambda rows: np.array([number(prompt, response) for prompt, response, *_ in rows]),
        "judged": lambda: _logits(run.shell.folder / "classifier"),
        "learned": lambda: _logits(_artefact(run.path, "reward_model")),
        "brief": lambda: log_ratios(run.path, "brief"),
    }
    return {name: known[name]() for name in names}


def completions(pairs: list[TokenisedPair], side: str) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    return [(pair.prompt, getattr(pair, side), pair.prompt_ids, getattr(pair, f"{side}_ids")) for pair in pairs]


def _logits(folder: Path) -> Reward:
    """The classifier's own output, a text at a time and without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.no_grad()
    def reward(rows: list[Any]) -> NDArray[np.float64]:
        texts = [JUDGED.format(prompt=prompt, response=response) for prompt, response, *_ in rows]
        return np.array([model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts])

    return reward


def log_ratios(run: Path, objective: str) -> Reward:
    """beta log(pi / pi_ref) of an objective's vertex, a sequence at a time."""
    start = _artefact(run, "start_model")
    vertices = [
        read_json(run / "points" / name / "point.json")["spec"] for name in read_json(run / "run.json")["vertices"]
    ]
    names = [o["name"] for o in read_json(run / "run.json")["config"]["objectives"]]
    (vertex,) = (spec for spec in vertices if names[spec["primary"]] == objective)
    reference = AutoModelForCausalLM.from_pretrained(start).eval()
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(start), str(run / "points" / vertex["trial_id"] / "final")
    ).eval()

    @torch.no_grad()
    def logp(model: torch.nn.Module, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        return float(logits.double().log_softmax(-1)[range(len(response)), list(response)].sum())

    def reward(rows: list[Any]) -> NDArray[np.float64]:
        return np.array([BETA * (logp(adapted, p, r) - logp(reference, p, r)) for _, _, p, r in rows])

    return reward


def _artefact(run: Path, stage: str) -> Path:
    (folder,) = (run / "artifacts").glob(f"{stage}-*")
    return folder
