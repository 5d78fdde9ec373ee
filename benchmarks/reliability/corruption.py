"""Damaged checkpoints: none may be loaded, all must be told of, and the training must end as if nothing had been.

A small training is broken off in this process behind its second checkpoint. For every file of that checkpoint and every
damage, a copy goes on from what is left. A damaged checkpoint is detected where the training goes on from the one
before and says so, recovered from where it then ends with the same bits, and loaded silently where it goes on from the
damaged one.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.reliability.base import SAVE_STEPS, base_sweep, write_base_world
from benchmarks.reliability.damage import OF_A_FILE, spoil, truncated
from benchmarks.reliability.figures import Figure, Measured, Options
from modpo.annotate import annotate_shard
from modpo.artifacts import MANIFEST, file_sha256
from modpo.config.load import parse_config
from modpo.config.spec import Work
from modpo.data.prepare import write_prepared
from modpo.ledger import final_dir, point_dir
from modpo.orchestration.inputs import load_inputs
from modpo.orchestration.plan import plan_sweep
from modpo.orchestration.session import Session
from modpo.orchestration.stages import RunState, run_annotation
from modpo.training.loop import Hook, Progress
from modpo.training.point import train_point
from modpo.training.process_group import process_group

STEPS = 4 * SAVE_STEPS
NEWEST, BEFORE = 2 * SAVE_STEPS, SAVE_STEPS
BROKEN_OFF = NEWEST + 2


class BrokenOffError(Exception):
    """Stands for a lost process: nothing of the training runs after it."""


class InThisProcess:
    """Stands where a session with a cluster does: one worker annotates."""

    num_slots = 1

    def perform_all(self, works: Sequence[Work]) -> None:
        for work in works:
            annotate_shard(work, rank=0, world_size=1, device=torch.device("cpu"))


class Warned(logging.Handler):
    """Whether the training said what it passed over."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@dataclass(frozen=True)
class Outcome:
    """How a training went on: its first step, what it said, and its final weights."""

    first_step: int
    said: list[str]
    weights: str


def measure(options: Options) -> Measured:
    """Every damage of every file of a checkpoint, then checkpoints that are whole and another training's."""
    torch.set_num_threads(1)
    with process_group():
        write_base_world(options.folder / "world")
        work, other = (_broken_off(options.folder, name, seed) for name, seed in (("whole", 0), ("other", 1)))
        expected = _go_on(_copy(work, options.folder / "undisturbed"))
        if expected.first_step != NEWEST + 1:
            raise RuntimeError(f"the undisturbed training goes on with step {expected.first_step}")
        rows = [
            _row(name, *_after(_copy(work, options.folder / f"case-{number}"), spoiled, expected))
            for number, (name, spoiled) in enumerate(_cases(work, other))
        ]
    options.say(f"{len(rows)} damaged checkpoints")
    return Measured(_figures(rows), rows)


Spoiled = Callable[[Path], int]
"""Damages the checkpoints below a folder; the step that a training must then go on from."""


def _cases(work: Work, other: Work) -> list[tuple[str, Spoiled]]:
    newest = _checkpoints(work) / f"step_{NEWEST:06d}"
    cases: list[tuple[str, Spoiled]] = []
    for path in sorted(newest.iterdir()):
        for name, damage in OF_A_FILE.items():
            before = _checkpoints(other if path.name == MANIFEST else work) / (
                newest.name if path.name == MANIFEST else f"step_{BEFORE:06d}"
            )

            def one(root: Path, file: str = path.name, damage: Any = damage, before: Path = before) -> int:
                spoil(root / newest.name / file, before / file, damage)
                return BEFORE

            cases.append((f"{path.name}: {name}", one))

    def of_another_training(root: Path) -> int:
        shutil.rmtree(root / newest.name)
        shutil.copytree(_checkpoints(other) / newest.name, root / newest.name)
        return BEFORE

    def of_another_step(root: Path) -> int:
        shutil.rmtree(root / newest.name)
        shutil.copytree(root / f"step_{BEFORE:06d}", root / newest.name)
        return BEFORE

    def all_of_them(root: Path) -> int:
        for folder in root.glob("step_*"):
            truncated(folder / "parameters.safetensors", folder)
        return 0

    return [
        *cases,
        ("the checkpoint of another training", of_another_training),
        ("the checkpoint of another step", of_another_step),
        ("both checkpoints: truncated", all_of_them),
    ]


def _broken_off(folder: Path, name: str, seed: int) -> Work:
    """A training that was lost behind its second checkpoint."""
    raw = base_sweep(folder / "world", stage=0) | {"resources": {"num_workers": 1}, "seed": seed}
    raw["model"]["lora"]["lora_dropout"] = 0.1  # so that the random state matters too
    raw["training"]["max_steps"] = STEPS
    raw["data"]["num_proc"] = 1
    config = parse_config(raw)
    data, inputs = load_inputs(config)
    state = RunState(config, folder / name, plan_sweep(config, inputs), cast(Session, InThisProcess()))
    write_prepared(Path(state.inputs.prepared), config, data, model_path=config.model.name_or_path)
    run_annotation(state, "reference")
    trial = state.plan.vertices["vivid"]
    work = state.work("vertex", trial.trial_id, trial)

    def break_off(progress: Progress) -> bool:
        if progress.step == BROKEN_OFF:
            raise BrokenOffError
        return False

    try:
        train_point(work, hooks=[Hook(1, break_off)])
    except BrokenOffError:
        return work
    raise RuntimeError("the training came to its end")


def _copy(work: Work, folder: Path) -> Work:
    """The same training in another folder; what it starts from stays where it is."""
    assert work.trial is not None
    shutil.copytree(point_dir(Path(work.run_dir), work.trial.trial_id), point_dir(folder, work.trial.trial_id))
    return work.model_copy(update={"run_dir": str(folder)})


def _checkpoints(work: Work) -> Path:
    assert work.trial is not None
    return point_dir(Path(work.run_dir), work.trial.trial_id) / "checkpoints"


def _go_on(work: Work) -> Outcome:
    assert work.trial is not None
    steps: list[int] = []

    def record(progress: Progress) -> bool:
        steps.append(progress.step)
        return False

    warned = Warned()
    logger = logging.getLogger("modpo")
    logger.addHandler(warned)
    try:
        train_point(work, hooks=[Hook(1, record)])
    finally:
        logger.removeHandler(warned)
    adapter = final_dir(Path(work.run_dir), work.trial) / "adapter_model.safetensors"
    return Outcome(steps[0], warned.said, file_sha256(adapter))


def _after(work: Work, spoiled: Spoiled, expected: Outcome) -> tuple[int, Outcome, Outcome]:
    wanted = spoiled(_checkpoints(work))
    return wanted, _go_on(work), expected


def _row(name: str, wanted: int, found: Outcome, expected: Outcome) -> dict[str, Any]:
    told = any(f"step_{NEWEST:06d}" in line for line in found.said)
    return {
        "case": name,
        "detected": found.first_step == wanted + 1 and told,
        "recovered": found.weights == expected.weights,
        "silent": found.first_step == NEWEST + 1,
    }


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    count = len(rows)
    return {
        "checkpoint corruptions detected": Figure(sum(row["detected"] for row in rows), count, "at least"),
        "checkpoint corruptions recovered from": Figure(sum(row["recovered"] for row in rows), count, "at least"),
        "checkpoint corruptions loaded silently": Figure(sum(row["silent"] for row in rows), 0, "at most"),
    }
