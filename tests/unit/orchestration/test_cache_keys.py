"""Whatever the cached numbers depend on changes their key: on real files, one change at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability.keys import (
    CACHED,
    PARTS,
    Part,
    longer,
    other_byte,
    other_row,
    other_template,
    outcome,
    prepared_world,
)
from modpo.config import SweepConfig
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from tests.acceptance.plugin import Accept
from tests.sweeps import world_sweep

QUANTITY = "tables whose key a change leaves as it was"


@pytest.fixture
def world(demo_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo world with a folder that stands for an adapter, and modules with reward code."""
    folder = tmp_path / "world"
    prepared_world(demo_world, folder)
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


# A file, how it changes, and how many of the two tables depend on it: margin rewards alone, or both.
FILES: dict[str, tuple[str, Callable[[Path], None], int]] = {
    "data rows": ("vivid.jsonl", other_row, 2),
    "base weights": ("model/model.safetensors", other_byte, 2),
    "tokenizer": ("model/tokenizer.json", longer, 2),
    "chat template": ("model/tokenizer_config.json", other_template, 2),
    "model config": ("model/config.json", longer, 2),
    "adapter": ("adapter/adapter_model.safetensors", other_byte, 1),
    "adapter config": ("adapter/adapter_config.json", longer, 1),
    "reward code": ("own_rewards.py", longer, 1),
    "what reward code imports": ("lengths.py", longer, 1),
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


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_each_of_the_eleven_parts_misses_what_depends_on_it_and_says_so(
    demo_world: Path, tmp_path: Path, part: Part
) -> None:
    found = outcome(part, demo_world, tmp_path / "world")
    assert (found.stale, found.lost) == ((), ())
    assert found.reasons == (f"the {part.reason} changed; done again",) * (len(CACHED) - part.keeps)


KEPT = ("README.md", "LICENSE", ".gitattributes", ".cache/huggingface/download/model.safetensors.lock")


@pytest.mark.parametrize("name", KEPT)
def test_what_only_describes_a_model_or_lies_hidden_beside_it_is_no_part_of_a_key(world: Path, name: str) -> None:
    before = keys(sweep(world))
    for folder in ("model", "adapter"):
        (world / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (world / folder / name).write_text("new")
    assert keys(sweep(world)) == before


def test_the_layout_of_a_json_file_is_no_chat_template(world: Path) -> None:
    before, path = keys(sweep(world)), world / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert keys(sweep(world)) == before


def test_other_code_beside_that_of_a_reward_is_no_part_of_its_key(world: Path) -> None:
    (world / "unused.py").write_text("A = 1\n")
    before = keys(sweep(world))
    (world / "unused.py").write_text("A = 2\n")
    assert keys(sweep(world)) == before
