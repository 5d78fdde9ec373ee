"""What a sweep will take in storage, device time and money: pure arithmetic on what is known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modpo.config.tree import SweepConfig
from modpo.core.memory import ModelTensors

KEPT_CHECKPOINTS = 2
# Of the operations that a device can do at best. Measured of this project's packed steps on large models, a GPU does
# more; small models and short texts do less, so that the hours may be several times as many.
UTILISATION = 0.3
# UTF-8 bytes of a token of English text, nearly.
BYTES_A_TOKEN = 4
# Of a token in the tables: its text, its id in parquet and its id in the array that trials map.
STORED_BYTES_A_TOKEN = BYTES_A_TOKEN + 2 * 4
NUMBER_BYTES = 8


@dataclass(frozen=True)
class DeviceTime:
    """Hours of training over all devices.

    Attributes:
        source: where the pace of a step comes from, as a sentence.
    """

    hours: float
    source: str


def storage_bytes(
    config: SweepConfig, tensors: ModelTensors, *, num_points: int, num_pairs: int, pair_tokens: float
) -> dict[str, int]:
    """Bytes on the storage path at the end, by what they are for.

    Args:
        num_points: that are trained, vertices included.
        pair_tokens: of the prompt and both responses of a pair.
    """
    state = 3 * 4 * tensors.num_trained
    of_final = tensors.num_trained * (4 if tensors.is_adapter else tensors.dtype_bytes)
    evaluation = config.evaluation
    sampled = evaluation.num_prompts * evaluation.samples_per_prompt * evaluation.max_new_tokens
    numbers = 2 * (1 + len(config.objectives)) * NUMBER_BYTES
    return {
        "pairs and their annotation": int(num_pairs * (pair_tokens * STORED_BYTES_A_TOKEN + 2 * numbers)),
        "start model": tensors.num_numbers * tensors.dtype_bytes if config.sft else 0,
        "trained weights": num_points * of_final,
        f"checkpoints, {KEPT_CHECKPOINTS} a point": num_points * KEPT_CHECKPOINTS * state,
        "samples of the evaluations": num_points * sampled * STORED_BYTES_A_TOKEN,
    }


def step_flops(tensors: ModelTensors, tokens: float) -> float:
    """Operations of an optimiser step over so many tokens, attention left out.

    Two a weight and token going forward, two going back, and two more for each weight that is trained.
    """
    going_back = 2 * tensors.num_numbers + 2 * tensors.num_trained
    return tokens * (2 * tensors.num_numbers + going_back)


def from_flops(
    tensors: ModelTensors, *, steps: int, step_tokens: float, peak: float, device: str, utilisation: float = UTILISATION
) -> DeviceTime:
    """Hours by counting operations.

    Args:
        steps: optimiser steps of all points.
        step_tokens: of one of them, over all workers.
        peak: operations a second of one device at best.
    """
    seconds = steps * step_flops(tensors, step_tokens) / (peak * utilisation)
    source = f"from operations, at {utilisation:.0%} of the {peak / 1e12:.3g} TFLOP/s of {device}"
    return DeviceTime(seconds / 3600, source)


def from_measured(paces: Sequence[tuple[int, float]], *, steps: int) -> DeviceTime | None:
    """Hours by the pace of points that the run has trained already; None where there are none.

    Args:
        paces: steps, and device seconds spent in them, of each such point.
    """
    done, seconds = sum(number for number, _ in paces), sum(seconds for _, seconds in paces)
    if not done:
        return None
    return DeviceTime(steps * seconds / done / 3600, f"measured in {done} steps of this run")
