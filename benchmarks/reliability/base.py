"""The base run of the scoreboard, and what of it must be the same whatever happened on the way.

Six weight vectors of two objectives, 40 steps each, two workers, float32, a checkpoint every 5 steps, on a small demo
world. Points are trained one by one: those that one slot trains together are parted when they have lost their workers
twice, and then agree to rounding only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from modpo.artifacts import file_sha256, read_json, write_json_lines
from modpo.data.demo.model import write_model
from modpo.data.demo.rewards import brief, vivid
from modpo.data.demo.world import sampled_pairs

STEPS = 40
SAVE_STEPS = 5
INTERVALS = 5
POINTS = INTERVALS + 1
NAME = "base"
WORLD_SEED = 7
PAIRS_PER_OBJECTIVE = 120
COMMAND = "MODPO_RELIABILITY_COMMAND"
"""In the environment of everything that one command starts, and of nothing else."""


def write_base_world(folder: Path) -> None:
    """`model/`, `vivid.jsonl`, `brief.jsonl` and `corpus.jsonl`: always the same bytes."""
    generator = random.Random(WORLD_SEED)
    folder.mkdir(parents=True)
    texts, corpus = [], []
    for name, reward in (("vivid", vivid), ("brief", brief)):
        pairs = sampled_pairs(reward, PAIRS_PER_OBJECTIVE, generator)
        write_json_lines(folder / f"{name}.jsonl", pairs)
        texts += [pair[part] for pair in pairs for part in ("prompt", "chosen", "rejected")]
        corpus += [{"prompt": pair["prompt"], "response": pair["chosen"]} for pair in pairs]
    write_json_lines(folder / "corpus.jsonl", corpus)
    write_model(folder / "model", texts=texts, seed=WORLD_SEED)


def base_sweep(world: Path, *, stage: int) -> dict[str, Any]:
    """The sweep file. One reward is implicit, so that points wait for a vertex; ZeRO stage as given."""
    return {
        "name": NAME,
        "model": {"name_or_path": str(world / "model"), "dtype": "float32", "lora": {"r": 4}},
        "data": {"template": "{prompt}\n", "eval_fraction": 0.2},
        "objectives": [
            {
                "name": "vivid",
                "pairs": {"path": str(world / "vivid.jsonl")},
                "reward": {"type": "function", "function": "modpo.data.demo.rewards:vivid"},
            },
            {"name": "brief", "pairs": {"path": str(world / "brief.jsonl")}},
        ],
        "training": {
            "beta": 0.5,
            "learning_rate": 1.0e-3,
            "max_steps": STEPS,
            "save_steps": SAVE_STEPS,
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "deepspeed": {"stage": stage},
        },
        "sweep": {"weights": {"lattice": INTERVALS}},
        "resources": {"num_workers": 2, "cpus_per_worker": 0.5, "max_concurrent": 1, "points_together": 1},
        "evaluation": {
            "num_prompts": 6,
            "samples_per_prompt": 4,
            "max_new_tokens": 16,
            "bootstrap_resamples": 100,
        },
    }


@dataclass(frozen=True)
class Run:
    """The folder of a base run, as it stands on disk."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "runs" / NAME

    @cached_property
    def trial_ids(self) -> tuple[str, ...]:
        """All points, in the order in which they are trained: the two ends first."""
        manifest = read_json(self.path / "run.json")
        return tuple(dict.fromkeys([*manifest["vertices"], *manifest["trials"]]))

    def point(self, trial_id: str) -> Path:
        return self.path / "points" / trial_id

    def record(self, trial_id: str) -> dict[str, Any]:
        """Of the ledger; empty where the point has not begun."""
        try:
            found: dict[str, Any] = read_json(self.point(trial_id) / "point.json")
        except FileNotFoundError:
            return {}
        return found

    def losses(self, trial_id: str) -> list[tuple[int, float]]:
        """Step and loss of every row that the workers logged, in the order in which they did."""
        try:
            lines = (self.point(trial_id) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            # A dying process may have cut one short.
            with suppress(ValueError):
                row = json.loads(line)
                rows.append((int(row["step"]), float(row["loss"])))
        return rows

    def weights(self, trial_id: str) -> str:
        """SHA-256 of the trained adapter; empty where there is none yet."""
        path = self.point(trial_id) / "final" / "adapter_model.safetensors"
        return file_sha256(path) if path.is_file() else ""

    def is_trained(self, trial_id: str) -> bool:
        return self.record(trial_id).get("status") in ("trained", "finished")

    def is_finished(self, trial_id: str) -> bool:
        return self.record(trial_id).get("status") == "finished"


@dataclass
class Command:
    """`modpo run` in the background, in a folder with its sweep file.

    Attributes:
        number: of how many times it was given in this folder, from 1.
    """

    folder: Path
    number: int
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", COMMAND: self.tag}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modpo", "run", "sweep.yaml"],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def tag(self) -> str:
        return f"{self.folder}:{self.number}"

    @property
    def output(self) -> Path:
        return self.folder / f"command-{self.number}.txt"

    def said(self) -> str:
        """The end of what it printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")[-2000:]

    def wait(self, timeout_s: float) -> int:
        """Its exit status.

        Raises:
            TimeoutExpired: it still runs.
        """
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Ends what a failed measurement leaves behind: its processes on a private cluster then end by themselves."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def new_run(folder: Path, world: Path, *, stage: int) -> Run:
    """A folder with the sweep file and nothing else; the world is written where it is not there yet."""
    if not world.exists():
        write_base_world(world)
    folder.mkdir(parents=True)
    text = yaml.safe_dump(base_sweep(world, stage=stage), sort_keys=False)
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    return Run(folder)


def undisturbed(folder: Path, *, stage: int, patience_s: float) -> Run:
    """The base run of a ZeRO stage with nothing in its way; one that stands in the folder already is taken as it is.

    Its world is that of all runs that are compared with it.

    Raises:
        RuntimeError: it did not end well.
    """
    run, status, said = Run(folder / f"stage-{stage}"), 0, ""
    if not run.folder.exists():
        new_run(run.folder, folder / "world", stage=stage)
        command = Command(run.folder, 1)
        try:
            status = command.wait(patience_s)
        finally:
            command.end()
        said = command.said()
    if status != 0 or not all(run.is_finished(trial_id) for trial_id in run.trial_ids):
        raise RuntimeError(f"the undisturbed run ended with {status}:\n{said}")
    if len(run.trial_ids) != POINTS:
        raise RuntimeError(f"the base run has {len(run.trial_ids)} points, not {POINTS}")
    return run
