"""Sweep files as tests write them: the smallest valid one, and changes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from modpo.config import SweepConfig, parse_config

VIVID = "modpo.data.demo.rewards:vivid"
BRIEF = "modpo.data.demo.rewards:brief"


def raw_sweep(**sections: Any) -> dict[str, Any]:
    """Two objectives with pairs and rewards of the demo; a section given replaces the one of that name."""
    return {
        "name": "small",
        "model": {"name_or_path": "demo:model", "dtype": "float32"},
        "objectives": [
            {
                "name": "vivid",
                "pairs": {"path": "demo:vivid.jsonl"},
                "reward": {"type": "function", "function": VIVID},
            },
            {
                "name": "brief",
                "pairs": {"path": "demo:brief.jsonl"},
                "reward": {"type": "function", "function": BRIEF},
            },
        ],
        **sections,
    }


def world_sweep(world: Path, **sections: Any) -> SweepConfig:
    """The same sweep on the files of a written demo world."""
    raw = raw_sweep(**sections)
    # The demo's tokens are words: without something between them, prompt and response would grow together.
    raw["data"] = {"template": "{prompt}\n", **raw.get("data", {})}
    raw["model"] = {**raw["model"], "name_or_path": str(world / "model")}
    for objective in raw["objectives"]:
        if "pairs" in objective:
            objective["pairs"] = {
                **objective["pairs"],
                "path": objective["pairs"]["path"].replace("demo:", f"{world}/"),
            }
    return parse_config(raw)


def write_sweep(folder: Path, raw: dict[str, Any] | str) -> Path:
    """A sweep file from a tree, or from YAML text."""
    path = folder / "sweep.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path
