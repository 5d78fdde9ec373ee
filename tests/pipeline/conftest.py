"""One small sweep through the command line, shared by the tests that look at what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sweeps import raw_sweep

TIMEOUT_S = 300
BUSY_TIMEOUT_S = 800
"""Of long runs: less than a minute or two by themselves, but not where others use the cores."""


@dataclass(frozen=True)
class Shell:
    """Runs `modpo` as a user does: another process, in a folder of its own."""

    folder: Path
    timeout_s: float = TIMEOUT_S

    def modpo(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modpo", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MODPO_DEBUG": "1"},
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )

    def sweep_file(self, raw: dict[str, Any], name: str = "sweep.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        return path


def small_sweep(world: Path, name: str, **sections: Any) -> dict[str, Any]:
    """Three points of a few steps each on a small demo world, one reward implicit and one a function."""
    raw = raw_sweep(
        name=name,
        data={"template": "{prompt}\n", "eval_fraction": 0.2},
        sft={"data": {"path": str(world / "corpus.jsonl")}, "max_steps": 20, "learning_rate": 4.0e-3},
        training={"beta": 0.5, "learning_rate": 1.0e-3, "max_steps": 12, "save_steps": 4, "logging_steps": 2},
        sweep={"weights": {"lattice": 2}},
        evaluation={
            "num_prompts": 6,
            "samples_per_prompt": 4,
            "max_new_tokens": 16,
            "bootstrap_resamples": 100,
            "enumerate": "modpo.data.demo.rewards:enumerate_answers",
        },
        **sections,
    )
    raw["model"] = {"name_or_path": str(world / "model"), "dtype": "float32", "lora": {"r": 4}}
    for objective in raw["objectives"]:
        objective["pairs"] = {"path": str(world / f"{objective['name']}.jsonl")}
    del raw["objectives"][1]["reward"]
    return raw


@dataclass(frozen=True)
class FinishedRun:
    """A run that came to its end, and what the terminal said."""

    shell: Shell
    raw: dict[str, Any]
    config: Path
    path: Path
    output: str

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "report" / "summary.json").read_text(encoding="utf-8"))
        return found


@pytest.fixture(scope="session")
def finished_run(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    shell = Shell(tmp_path_factory.mktemp("pipeline"))
    raw = small_sweep(demo_world, "small")
    config = shell.sweep_file(raw)
    done = shell.modpo("run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(shell, raw, config, shell.folder / "runs" / "small", done.stdout + done.stderr)
