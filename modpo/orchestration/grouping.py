"""Which points are trained together in one worker group, as adapters on one model: pure arithmetic.

Only points that exceed the slots are grouped: a slot of its own is always the fastest for a point. And only where a
step is so small that its many operations cost more than what they compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modpo.config.spec import TrialSpec

# Numbers in the hidden states of a group, points x tokens x hidden size, up to which it surely pays on a CPU. Measured
# against the points one after another (benchmarks/together.py): groups of 86,000 take their steps 2.8 times as fast,
# those of 184,000 to 246,000 1.1 to 1.6 times, 369,000 1.05 times, 737,000 0.96 times.
CPU_HOLDS = 250_000
# Multiplications of a decoder layer for all points of a group, on a GPU: half of what an H100 does, at 45 % of its rate
# in bfloat16, while 135 kernels a layer are launched in 6 microseconds each. Counted, not measured.
GPU_HOLDS = 45e9
# Beyond it there is little left to gain, and more to train again when a worker is lost.
LARGEST = 8


@dataclass(frozen=True)
class LayerSize:
    """Of one decoder layer; the number of weights is nearly right."""

    hidden_size: int
    num_weights: int


@dataclass(frozen=True)
class StepSize:
    """What one point asks of one worker in a micro-batch: its tokens, and the model's layers that they go through."""

    tokens: float
    layer: LayerSize


def largest_group(step: StepSize, *, on_gpu: bool) -> int:
    """How many points are trained together at most, so that it is never slower than one after another."""
    held, of_one = (GPU_HOLDS, step.layer.num_weights) if on_gpu else (CPU_HOLDS, step.layer.hidden_size)
    return max(1, min(LARGEST, int(held / (step.tokens * of_one))))


def grouped(trials: Sequence[TrialSpec], *, slots: int, largest: int) -> list[list[TrialSpec]]:
    """The trials in groups of at most `largest`, each for one slot; every slot gets one before any group has two.

    A group's points have the same seed and train on the same pairs, so that only the loss tells them apart.
    """
    kinds: dict[tuple[object, ...], list[TrialSpec]] = {}
    for trial in trials:
        kinds.setdefault((trial.sources, trial.seed), []).append(trial)
    counts = dict.fromkeys(kinds, 1)
    wanted = min(len(trials), slots * math.ceil(len(trials) / (slots * largest)))

    def size(kind: tuple[object, ...]) -> float:
        return len(kinds[kind]) / counts[kind]

    while kinds and (sum(counts.values()) < wanted or max(map(size, kinds)) > largest):
        counts[max(kinds, key=size)] += 1
    return [group for kind, members in kinds.items() for group in _shares(members, counts[kind])]


def _shares(trials: Sequence[TrialSpec], count: int) -> list[list[TrialSpec]]:
    """Neighbours together, in shares whose sizes differ by one at most."""
    bounds = [round(number * len(trials) / count) for number in range(count + 1)]
    return [list(trials[start:end]) for start, end in pairwise(bounds)]
