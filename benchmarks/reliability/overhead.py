"""What the manifest costs: checkpoints with their digests against the same files without any, in turn."""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.reliability.figures import Figure, Measured, Options
from modpo.core.workload import StepTotals
from modpo.manifests import sync_to_disk
from modpo.training.checkpoint import Checkpoints, TrainingState

NUMBERS = 20_000_000
"""Trained parameters: 240 MB of checkpoint, as LoRA of rank 16 leaves it on a model of some 3B parameters."""
TENSORS = 20
ROUNDS = 41
PAUSE_S = 0.2
"""Before each save, so that the disk has nothing else to do."""
BAR = 0.05


def measure(options: Options) -> Measured:
    """Saves in turn, each round in the other order; the median of the rounds' ratios counts, the first warms up."""
    state = _state()
    checkpoints = Checkpoints(options.folder / "with", "overhead", gather=lambda value: [value])
    ways: tuple[Callable[[], object], ...] = (
        lambda: checkpoints.save(state),
        lambda: _save_without(state, options.folder / "without"),
    )
    rows = []
    for number in range(ROUNDS + 1):
        taken = [0.0, 0.0]
        for way in (0, 1) if number % 2 else (1, 0):
            shutil.rmtree(options.folder / ("with", "without")[way], ignore_errors=True)
            os.sync()
            time.sleep(PAUSE_S)
            started = time.perf_counter()
            ways[way]()
            taken[way] = time.perf_counter() - started
        rows.append({"with_s": round(taken[0], 4), "without_s": round(taken[1], 4)})
        gc.collect()
    overheads = [row["with_s"] / row["without_s"] - 1 for row in rows[1:]]
    options.say(f"overhead of {min(overheads):.1%} to {max(overheads):.1%} over {ROUNDS} rounds")
    figure = Figure(round(statistics.median(overheads), 4), BAR, "at most")
    return Measured({"manifest overhead of a checkpoint's time": figure}, rows)


def _state() -> TrainingState:
    generator = torch.Generator().manual_seed(0)

    def tensors(prefix: str) -> dict[str, torch.Tensor]:
        size = NUMBERS // TENSORS
        return {f"{prefix}{number}": torch.randn(size, generator=generator) for number in range(TENSORS)}

    return TrainingState(5, tensors("layer."), tensors("first.") | tensors("second."), totals=StepTotals())


def _save_without(state: TrainingState, root: Path) -> None:
    """The same files, synced and renamed as they are, but for the manifest."""
    aside, folder = root / ".aside", root / "step_000005"
    aside.mkdir(parents=True)
    _save_tensors({"cpu": torch.get_rng_state()}, aside / "rng-0.safetensors")
    _save_tensors(state.parameters, aside / "parameters.safetensors")
    _save_tensors(state.moments, aside / "moments.safetensors")
    stored = {"step": state.step, "stopped": state.stopped, "totals": asdict(state.totals)}
    (aside / "state.json").write_text(json.dumps(stored), encoding="utf-8")
    for path in (*aside.iterdir(), aside):
        sync_to_disk(path)
    aside.rename(folder)
    sync_to_disk(root)


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """By safetensors' own writer; the disk begins as early as with digests."""
    save_file(tensors, path)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
