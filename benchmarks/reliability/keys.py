"""The eleven things that cached numbers depend on, changed one at a time on real files: what still counts as there."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from modpo.config import SweepConfig, parse_config
from modpo.orchestration import digests
from modpo.orchestration.differences import why_again
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import SweepPlan, plan_sweep

Cached = Literal["prepared", "reference", "rewards", "points", "evaluation"]
CACHED: tuple[Cached, ...] = ("prepared", "reference", "rewards", "points", "evaluation")
STAGE_OF: dict[Cached, str] = {
    "prepared": "prepare",
    "reference": "reference",
    "rewards": "annotate",
    "points": "sweep",
    "evaluation": "evaluate",
}

REWARD_CODE = (
    "from lengths import words\n\n\ndef score(prompts, responses):\n    return [words(r) for r in responses]\n"
)
ITS_HELPER = "def words(text):\n    return float(len(text.split()))\n"

Change = Callable[[Path, dict[str, Any]], None]
"""Changes a file of the world, or the sweep."""


@dataclass(frozen=True)
class Part:
    """One of the eleven.

    Attributes:
        reason: what people are told has changed.
        keeps: how many of CACHED, from the first, do not depend on it.
    """

    name: str
    change: Change
    reason: str
    keeps: int


@dataclass(frozen=True)
class Outcome:
    """What a change did: what still counted as there though it depends on it, and the other way round."""

    part: str
    stale: tuple[Cached, ...]
    lost: tuple[Cached, ...]
    reasons: tuple[str, ...]


def outcomes(world: Path, scratch: Path) -> list[Outcome]:
    """Each of the eleven, on a copy of the demo world of its own."""
    return [outcome(part, world, scratch / f"part-{number}") for number, part in enumerate(PARTS)]


def outcome(part: Part, world: Path, folder: Path) -> Outcome:
    """Plans a sweep before and after the change."""
    raw = prepared_world(world, folder)
    with _importable(folder):
        before = _plan(raw)
        with mock.patch.object(digests, "ANNOTATION_VERSION", digests.ANNOTATION_VERSION):
            part.change(folder, raw)
            after = _plan(raw)
    kept = [name for name, old, new in zip(CACHED, _names(before), _names(after), strict=True) if old == new]
    return Outcome(
        part.name,
        stale=tuple(name for name in CACHED[part.keeps :] if name in kept),
        lost=tuple(name for name in CACHED[: part.keeps] if name not in kept),
        reasons=tuple(
            why_again(before.keys[STAGE_OF[name]], after.keys[STAGE_OF[name]]) for name in CACHED[part.keeps :]
        ),
    )


def prepared_world(world: Path, folder: Path) -> dict[str, Any]:
    """A copy of the demo world with an adapter's files and reward code, and a sweep that depends on all of it."""
    shutil.copytree(world, folder)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 2}', encoding="utf-8")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(64))
    (folder / "own_rewards.py").write_text(REWARD_CODE, encoding="utf-8")
    (folder / "lengths.py").write_text(ITS_HELPER, encoding="utf-8")
    settings = folder / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": "{{ messages }}"}))
    adapter = {"type": "implicit", "adapter": str(folder / "adapter"), "adapter_beta": 0.5}
    return {
        "name": "keys",
        "model": {"name_or_path": str(folder / "model"), "dtype": "float32"},
        "data": {"template": "{prompt}\n"},
        "objectives": [
            {"name": "vivid", "pairs": {"path": str(folder / "vivid.jsonl")}, "reward": adapter},
            {
                "name": "brief",
                "pairs": {"path": str(folder / "brief.jsonl")},
                "reward": {"type": "function", "function": "own_rewards:score"},
            },
        ],
        # A mixed point alone: the ends of the front depend on no reward.
        "sweep": {"weights": {"list": [{"vivid": 0.5, "brief": 0.5}]}},
    }


def _plan(raw: dict[str, Any]) -> SweepPlan:
    config: SweepConfig = parse_config(raw)
    return plan_sweep(config, load_inputs(config)[1])


def _names(planned: SweepPlan) -> list[str]:
    """Under which each of CACHED is looked for."""
    (point,) = planned.points
    return [planned.prepared, planned.reference, planned.rewards, point.trial_id, planned.measurement]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def other_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_row(path: Path) -> None:
    *rows, last = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(last)
    path.write_text("\n".join([*rows, json.dumps({**row, "chosen": row["chosen"] + " ."})]) + "\n", encoding="utf-8")


def longer(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def other_template(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "chat_template": "{{ messages }} "}), encoding="utf-8")


def _setting(section: str, key: str, value: Any) -> Change:
    def change(_: Path, raw: dict[str, Any]) -> None:
        raw[section] = {**raw[section], key: value}

    return change


def _margin_beta(_: Path, raw: dict[str, Any]) -> None:
    raw["objectives"][0]["reward"]["adapter_beta"] = 0.25


def _annotation_version(_: Path, raw: dict[str, Any]) -> None:
    digests.ANNOTATION_VERSION += 1


PARTS = (
    Part("model bytes", lambda world, _: other_byte(world / "model" / "model.safetensors"), "model", 1),
    Part(
        "adapter bytes",
        lambda world, _: other_byte(world / "adapter" / "adapter_model.safetensors"),
        "adapter of vivid",
        2,
    ),
    Part("margin beta", _margin_beta, "margin beta of vivid", 2),
    Part("data rows", lambda world, _: other_row(world / "vivid.jsonl"), "data", 0),
    Part("tokenizer", lambda world, _: longer(world / "model" / "tokenizer.json"), "tokenizer", 0),
    Part("template", lambda world, _: other_template(world / "model" / "tokenizer_config.json"), "chat template", 0),
    Part("truncation", _setting("data", "too_long", "truncate"), "truncation", 0),
    Part("reward code", lambda world, _: longer(world / "lengths.py"), "reward code of brief", 2),
    Part("dtype", _setting("model", "dtype", "bfloat16"), "dtype", 1),
    Part("packing family", _setting("model", "attn_implementation", "eager"), "attention kernel", 1),
    Part("annotation version", _annotation_version, "format of annotations", 1),
)
