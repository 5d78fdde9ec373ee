"""What the manifest adds to the time of a checkpoint: `python -m benchmarks.manifest`.

A checkpoint as modpo writes it, against the same tensors written by safetensors' own writer, synced and renamed: safe
against a lost process, but without a digest of any byte. Both take turns; what counts is the median of the rounds'
ratios. Reads no clock but this machine's own, so it should be alone on it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file
from torch import Tensor

from modpo.artifacts import write_json
from modpo.training.checkpoint import Checkpoints, TrainingState

Tensors = dict[str, Tensor]

WIDTH = 1024
MIB_OF_A_MATRIX = 4 * WIDTH * WIDTH / 2**20
ROUNDS = 15
SIZES_MIB = (12, 120, 480)
BAR = 0.05


@dataclass(frozen=True)
class Overhead:
    """Medians over the rounds.

    Attributes:
        mib: of the checkpoint's tensors.
        overhead: what the manifest adds, over the time without it.
    """

    mib: float
    seconds: float
    seconds_without: float
    overhead: float

    @property
    def passed(self) -> bool:
        return self.overhead <= BAR


def manifest_overhead(mib: float, *, rounds: int = ROUNDS, folder: Path | None = None) -> Overhead:
    """Measures checkpoints of about so many MiB, a third of them parameters.

    Args:
        folder: on the disk that is asked about; the one of temporary files, if left out.
    """
    count = max(1, round(mib / MIB_OF_A_MATRIX / 3))
    parameters = {f"layer.{number}": torch.randn(WIDTH, WIDTH) for number in range(count)}
    moments = {f"{name}.{moment}": torch.randn(WIDTH, WIDTH) for name in parameters for moment in ("avg", "avg_sq")}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        checkpoints, plain = Checkpoints(Path(temporary) / "ours", "benchmark"), Path(temporary) / "plain"
        pairs = [
            (
                _timed(partial(checkpoints.save, TrainingState(step, parameters, moments))),
                _timed(partial(_save_plainly, plain / f"step_{step}", parameters, moments)),
            )
            # The first round finds nothing in any cache.
            for step in range(rounds + 1)
        ][1:]
    ours, theirs = zip(*pairs, strict=True)
    ratio = median(one / other for one, other in pairs)
    return Overhead(3 * count * MIB_OF_A_MATRIX, median(ours), median(theirs), ratio - 1)


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _save_plainly(folder: Path, parameters: Tensors, moments: Tensors) -> None:
    """The same files with the same care for the disk, and two of them kept as well."""
    aside = folder.with_name(f".{folder.name}")
    aside.mkdir(parents=True)
    files = {"parameters": parameters, "moments": moments, "rng-0": {"cpu": torch.get_rng_state()}}
    for name, tensors in files.items():
        save_file(tensors, aside / f"{name}.safetensors")
        _sync(aside / f"{name}.safetensors")
    write_json(aside / "state.json", {"step": 0})
    _sync(aside)
    aside.rename(folder)
    _sync(folder.parent)
    for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-2]:
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk that is asked about")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    for mib in SIZES_MIB:
        found = manifest_overhead(mib, rounds=arguments.rounds, folder=arguments.folder)
        print(asdict(found), "passed" if found.passed else "MISSED")


if __name__ == "__main__":
    main()
