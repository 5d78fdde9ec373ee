"""Whatever the cached numbers depend on changes their key: on real files, one change at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpo.config import SweepConfig
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from tests.acceptance.plugin import Accept
from tests.sweeps import world_sweep

QUANTITY = "tables whose key a change leaves as it was"
REWARD_CODE = "def score(prompts, responses):\n    return [float(len(response)) for response in responses]\n"


@pytest.fixture
def world(demo_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo world with a folder that stands for an adapter, and a module with reward code."""
    folder = tmp_path / "world"
    shutil.copytree(demo_world, folder)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 2}')
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(64))
    (folder / "own_rewards.py").write_text(REWARD_CODE)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def sweep(world: Path, **sections: Any) -> dict[str, Any]:
    """`vivid` has the implicit reward of an adapter, `brief` a function, and a third the implicit one of its vertex."""
    raw = world_sweep(world, **sections).model_dump(mode="json")
    vivid, brief = raw["objectives"]
    vivid["reward"] = {"type": "implicit", "adapter": str(world / "adapter"), "adapter_beta": 0.5}
    brief["reward"] = {"type": "function", "function": "own_rewards:score"}
    raw["objectives"] = [vivid, brief, {**brief, "name": "again", "reward": None}]
    return raw


def keys(raw: dict[str, Any]) -> tuple[str, str]:
    """Of the reference log-probabilities and of the margin rewards."""
    config = SweepConfig.model_validate(raw)
    plan = plan_sweep(config, load_inputs(config)[1])
    return plan.reference, plan.rewards


def other_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_row(path: Path) -> None:
    *rows, last = path.read_text().splitlines()
    row = json.loads(last)
    path.write_text("\n".join([*rows, json.dumps({**row, "chosen": row["chosen"] + " ."})]) + "\n")


def longer(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


# A file, how it changes, and how many of the two tables depend on it: margin rewards alone, or both.
FILES: dict[str, tuple[str, Callable[[Path], None], int]] = {
    "data rows": ("vivid.jsonl", other_row, 2),
    "base weights": ("model/model.safetensors", other_byte, 2),
    "tokenizer": ("model/tokenizer.json", longer, 2),
    "tokenizer settings and chat template": ("model/tokenizer_config.json", longer, 2),
    "model config": ("model/config.json", longer, 2),
    "adapter": ("adapter/adapter_model.safetensors", other_byte, 1),
    "adapter config": ("adapter/adapter_config.json", longer, 1),
    "reward code": ("own_rewards.py", longer, 1),
}


@pytest.mark.parametrize("name", FILES)
def test_files(world: Path, name: str, accept: Accept) -> None:
    file, change, dependents = FILES[name]
    before = keys(sweep(world))
    assert keys(sweep(world)) == before, "the same files have other keys"
    change(world / file)
    kept = [a == b for a, b in zip(before, keys(sweep(world)), strict=True)]
    accept("C4", QUANTITY, sum(kept[2 - dependents :]), at_most=0)
    assert sum(kept) == 2 - dependents, "a table was thrown away that does not depend on this"


SETTINGS: dict[str, tuple[tuple[str | int, ...], Any, int]] = {
    "template": (("data", "template"), "{prompt} : ", 2),
    "system message": (("data", "system"), "Be kind.", 2),
    "special tokens": (("data", "allow_special_tokens"), True, 2),
    "max_length": (("data", "max_length"), 99, 2),
    "cut or dropped": (("data", "too_long"), "truncate", 2),
    "held-out share": (("data", "eval_fraction"), 0.25, 2),
    "dtype": (("model", "dtype"), "bfloat16", 2),
    "attention kernel": (("model", "attn_implementation"), "eager", 2),
    "4 bits": (("model", "load_in_4bit"), True, 2),
    "fine-tuning": (("sft",), {}, 2),
    "seed": (("seed",), 1, 2),
    "beta of an adapter": (("objectives", 0, "reward", "adapter_beta"), 0.25, 1),
    "beta of a vertex": (("objectives", 2, "beta"), 0.3, 1),
    "beta of all vertices": (("training", "beta"), 0.3, 1),
    "training of a vertex": (("training", "learning_rate"), 1e-3, 1),
    "unit of a vertex": (("objectives", 2, "unit"), 2.0, 1),
    "direction of a function": (("objectives", 1, "direction"), "minimize", 1),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(world: Path, name: str, accept: Accept) -> None:
    path, value, dependents = SETTINGS[name]
    before, raw = keys(sweep(world)), sweep(world)
    *parents, last = path
    node: Any = raw
    for key in parents:
        node = node[key]
    assert node[last] != value
    node[last] = value
    kept = [a == b for a, b in zip(before, keys(raw), strict=True)]
    accept("C4", QUANTITY, sum(kept[2 - dependents :]), at_most=0)
    assert sum(kept) == 2 - dependents, "a table was thrown away that does not depend on this"


def test_the_weights_of_the_sweep_are_no_part_of_a_key(world: Path) -> None:
    """Nor are its seeds, its other betas, or the workers: the tables are made once for all of them."""
    more = sweep(world, sweep={"weights": {"lattice": 7}, "seeds": [0, 1], "betas": [0.2]})
    more["resources"]["max_concurrent"] = 3
    assert keys(more) == keys(sweep(world))
