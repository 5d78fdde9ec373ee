"""Memory of one step above the model that is there anyway, in a process of its own.

`python -m benchmarks.step_memory VARIANT HIDDEN LAYERS INTERMEDIATE VOCABULARY PAIRS` prints the bytes.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.variants import Case
from benchmarks.workloads import UNIFORM, ModelSize

MIB = 2**20
RESET_HIGH_WATER_MARK = "5"


def step_memory(variant: str, size: ModelSize, num_pairs: int) -> float:
    """MiB that a step over the first pairs of uniform lengths takes at its peak, measured in a new process."""
    numbers = (size.hidden, size.layers, size.intermediate, size.vocabulary, num_pairs)
    arguments = [variant, *map(str, numbers)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.step_memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the memory of {variant} could not be measured:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1]) / MIB


def main() -> None:
    variant, *numbers = sys.argv[1:]
    hidden, layers, intermediate, vocabulary, num_pairs = map(int, numbers)
    torch.set_num_threads(1)
    print(_peak_of_step(variant, ModelSize(hidden, layers, intermediate, vocabulary), num_pairs))


def _peak_of_step(variant: str, size: ModelSize, num_pairs: int) -> int:
    """Bytes by which the process's highest resident memory exceeds what it held before the step."""
    pairs = UNIFORM.pairs(size.vocabulary)[:num_pairs]
    with tempfile.TemporaryDirectory() as folder:
        # Code and tables that the first step of a process loads are not the step's.
        short = UNIFORM.pairs(size.vocabulary, shrink=100)[:1]
        Case(size, short).step(variant, Path(folder)).run()
        step = Case(size, pairs).step(variant, Path(folder))
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(RESET_HIGH_WATER_MARK, encoding="ascii")
        before = _status("VmRSS")
        step.run()
        return _status("VmHWM") - before


def _status(name: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
