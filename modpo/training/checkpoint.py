"""Resumable state of a training: safetensors and JSON, never a pickle; whole and verified, or not there.

checkpoints/step_000100/  parameters.safetensors  trained parameters, float32, by name
moments.safetensors     AdamW's two moments of each
rng-<rank>.safetensors  random state of each rank
state.json              step, totals of the steps until then, and whether a hook ended the training with it
manifest.json           SHA-256 of every file, and of which training, step and number of ranks they are; written last
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from modpo.artifacts import (
    MANIFEST,
    commit_directory,
    committed,
    damage_here,
    read_json,
    remove,
    set_aside,
    verified,
)
from modpo.core.workload import UNKNOWN_TOTALS, StepTotals
from modpo.disk_space import room_for
from modpo.errors import shown
from modpo.guards import ask_guards
from modpo.manifests import json_bytes
from modpo.storage import address, stored
from modpo.training.process_group import from_every_rank
from modpo.training.tensor_file import write_tensors

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
FOLDERS = "step_*"
PARAMETERS, MOMENTS, STATE = "parameters.safetensors", "moments.safetensors", "state.json"

Tensors = dict[str, Tensor]


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
    """The checkpoints of one training, where all its ranks find them. Rank 0 alone writes.

    Attributes:
        training: what is trained, by an id of everything that its result depends on. A checkpoint of anything else is
            never loaded, wherever it stands.
        gather: a value of each rank to all of them.
    """

    root: Path
    training: str
    rank: int = 0
    gather: Callable[[Any], list[Any]] = from_every_rank

    def save(self, state: TrainingState) -> Path:
        """Writes a checkpoint; all ranks must call it. Returns its folder.

        Raises:
            SetupError: the disk is full; the checkpoints before it are whole.
        """
        folder = self.root / f"step_{state.step:06d}"
        # Before the same step of whoever has the run by now is touched.
        ask_guards(folder)
        random_states = self.gather(_random_state())
        if self.rank == 0:
            self._write(folder, state, random_states)
            self._prune()
        # No rank goes on before it is there.
        self.gather(None)
        return folder

    def newest_valid(self) -> Path | None:
        """The latest checkpoint of this training whose every byte is what its manifest says.

        Damaged ones, and those of another training, are set aside and never looked at again; a warning names each of
        them and what is gone on from. One rank calls it: what processes that died have left half is removed.
        """
        for aside in self.root.glob(f".{FOLDERS}.aside"):
            shutil.rmtree(aside, ignore_errors=True)
        refused: list[tuple[Path, str]] = []
        newest = None
        for folder in reversed(self._folders()):
            damage = self._damage_of(folder)
            if not damage:
                newest = folder
                break
            refused.append((folder, damage))
        for folder, damage in refused:
            logger.warning(
                "checkpoint %s is damaged or incomplete (%s): set aside as %s; falling back to %s",
                address(folder),
                damage,
                set_aside(folder),
                newest.name if newest else "the start",
            )
        return newest

    def load(self, folder: Path) -> TrainingState:
        """Reads a checkpoint and restores this rank's random state; a rank that is new has none and keeps its own."""
        if stored(folder) is not None:
            # Rank 0 has verified what all ranks see; this one may be on another node.
            verified(folder)
        own = folder / f"rng-{self.rank}.safetensors"
        if own.is_file():
            _restore_random_state(load_file(own))
        stored_state = read_json(folder / STATE)
        return TrainingState(
            step=int(stored_state["step"]),
            stopped=bool(stored_state["stopped"]),
            totals=StepTotals(**stored_state["totals"]),
            parameters=load_file(folder / PARAMETERS),
            moments=load_file(folder / MOMENTS),
        )

    def _write(self, folder: Path, state: TrainingState, random_states: list[Tensors]) -> None:
        # The largest first: its digest is waited for longest.
        files = {MOMENTS: state.moments, PARAMETERS: state.parameters}
        files |= {f"rng-{rank}.safetensors": tensors for rank, tensors in enumerate(random_states)}
        needed = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
        # Not the name that an earlier process had, which may not know yet that it is no longer wanted.
        aside = self.root / f".{folder.name}.{uuid.uuid4().hex[:8]}.aside"
        try:
            with room_for(aside, needed):
                aside.mkdir(parents=True)
                digests = {name: write_tensors(aside / name, tensors) for name, tensors in files.items()}
                totals = {"step": state.step, "stopped": state.stopped, "totals": asdict(state.totals)}
                (aside / STATE).write_bytes(json_bytes(totals))
                about = {"training": self.training, "step": state.step, "world_size": len(random_states)}
                commit_directory(aside, folder, {"kind": "checkpoint", **about}, replace=True, digests=digests)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Of the oldest step first; on a file system those without a manifest too."""
        if stored(self.root) is not None:
            return committed(self.root, FOLDERS)
        return sorted(self.root.glob(FOLDERS))

    def _damage_of(self, folder: Path) -> str:
        """Why a folder must not be loaded; empty where nothing is wrong."""
        if damage := damage_here(folder):
            return damage
        manifest = read_json(folder / MANIFEST)
        if manifest.get("training") != self.training:
            return f"it is of {shown(manifest.get('training'))}"
        if folder.name != f"step_{manifest['step']:06d}":
            return f"it is of step {manifest['step']}"
        wanted = {PARAMETERS, MOMENTS, STATE, *(f"rng-{rank}.safetensors" for rank in range(manifest["world_size"]))}
        return f"it has no {min(missing)}" if (missing := wanted - manifest["files"].keys()) else ""

    def _prune(self) -> None:
        for folder in self._folders()[:-KEPT_CHECKPOINTS]:
            remove(folder)


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
