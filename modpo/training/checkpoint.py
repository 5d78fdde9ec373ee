"""Resumable state of a training: safetensors and JSON, never a pickle; whole and verified, or not there.

checkpoints/step_000100/  parameters.safetensors  trained parameters, float32, by name
moments.safetensors     AdamW's two moments of each
rng-<rank>.safetensors  random state of each rank
state.json              step, totals of the steps until then, and whether a hook ended the training with it
manifest.json           SHA-256 of every file, written last
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modpo.artifacts import ask_guards, commit_directory, is_valid, read_json, write_json
from modpo.core.workload import UNKNOWN_TOTALS, StepTotals

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainingState:
    """What `resume` needs beside the random state of its own rank; the tensors of rank 0 are the ones saved."""

    step: int
    parameters: dict[str, Tensor]
    moments: dict[str, Tensor]
    stopped: bool = False
    totals: StepTotals = UNKNOWN_TOTALS


class CheckpointStore(Protocol):
    """What a training keeps its states in; all ranks call `save` and `load`."""

    def save(self, state: TrainingState) -> Path: ...
    def newest_valid(self) -> Path | None: ...
    def load(self, folder: Path) -> TrainingState: ...


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, on storage that all its ranks share."""

    root: Path
    rank: int
    barrier: Callable[[], None]

    def save(self, state: TrainingState) -> Path:
        """Writes a checkpoint; all ranks must call it. Returns its folder."""
        folder = self.root / f"step_{state.step:06d}"
        aside = self.root / f".step_{state.step:06d}.aside"
        # Before the same step of whoever has the run by now is touched.
        ask_guards(folder)
        if self.rank == 0:
            # Left over from a process that died while writing: never committed, so nobody's.
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            aside.mkdir(parents=True)
        self.barrier()
        save_file(_random_state(), aside / f"rng-{self.rank}.safetensors")
        if self.rank == 0:
            save_file(_contiguous(state.parameters), aside / "parameters.safetensors")
            save_file(_contiguous(state.moments), aside / "moments.safetensors")
            stored = {"step": state.step, "stopped": state.stopped, "totals": asdict(state.totals)}
            write_json(aside / "state.json", stored)
        self.barrier()
        if self.rank == 0:
            commit_directory(aside, folder, {"kind": "checkpoint", "step": state.step})
            self._prune()
        self.barrier()
        return folder

    def newest_valid(self) -> Path | None:
        """The latest checkpoint whose every byte is what its manifest says; damaged ones are passed over, aloud."""
        for folder in sorted(self.root.glob("step_*"), reverse=True):
            if is_valid(folder):
                return folder
            logger.warning("checkpoint %s is damaged or incomplete: falling back to the one before", folder)
        return None

    def load(self, folder: Path) -> TrainingState:
        """Reads a checkpoint and restores this rank's random state; a rank that is new has none and keeps its own."""
        own = folder / f"rng-{self.rank}.safetensors"
        if own.is_file():
            _restore_random_state(load_file(own))
        stored = read_json(folder / "state.json")
        return TrainingState(
            step=int(stored["step"]),
            stopped=bool(stored["stopped"]),
            totals=StepTotals(**stored["totals"]),
            parameters=load_file(folder / "parameters.safetensors"),
            moments=load_file(folder / "moments.safetensors"),
        )

    def _prune(self) -> None:
        for folder in sorted(self.root.glob("step_*"), reverse=True)[KEPT_CHECKPOINTS:]:
            shutil.rmtree(folder, ignore_errors=True)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
