"""What every reward scorer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from modpo.errors import InputError, Problem

CompletionKey = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Completion:
    """A response to a prompt, as text for reward functions and as tokens for models.

    Attributes:
        prompt: text, or a list of {role, content} messages.
    """

    prompt: Any
    response: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def key(self) -> CompletionKey:
        """Equal for completions that every scorer scores alike."""
        return self.prompt_ids, self.response_ids


class RewardScorer(Protocol):
    """Scores completions under one objective."""

    def score(self, completions: Sequence[Completion], *, reference_logps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw rewards (N,), higher is better, finite.

        Args:
            reference_logps: (N,) log-probabilities of the responses under the reference, for scorers that need them.
        """
        ...


def finite(objective: str, values: Any, count: int, *, batch: str = "of the batch") -> NDArray[np.float64]:
    """Rewards as a checked vector.

    Args:
        batch: which batch it is, as the message says it.

    Raises:
        InputError: not `count` numbers, or one that is not finite; the message names its position.
    """
    rewards, got = _as_numbers(values)
    if not got and rewards.shape != (count,):
        got = f"shape {rewards.shape} {batch}"
    bad: list[int] = [] if got else np.flatnonzero(~np.isfinite(rewards)).tolist()
    if bad:
        got = f"{rewards[bad[0]]} for response {bad[0]} {batch}"
    if got:
        raise InputError(
            Problem(
                code="MS-231",
                what=f"the reward of {objective!r} did not give one finite number per response",
                where=f"objectives ({objective}).reward",
                got=got,
                wanted=f"{count} finite numbers",
                remedy="mend the reward function or model",
            )
        )
    return rewards


def _as_numbers(values: Any) -> tuple[NDArray[np.float64], str]:
    """(float64 array, empty text), or (empty array, what it is instead of numbers)."""
    if isinstance(values, torch.Tensor):
        # NumPy refuses tensors on a GPU, in bfloat16 or with a gradient.
        values = values.detach().cpu().double()
    try:
        array = np.asarray(values)
        # "1.5" would be read as a number.
        has_texts = array.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in array.flat)
        if array.dtype.kind in "biufO" and not has_texts:
            return array.astype(float), ""
    except (TypeError, ValueError):
        pass
    return np.empty(0), f"values that are no plain numbers, in a {type(values).__name__}"
