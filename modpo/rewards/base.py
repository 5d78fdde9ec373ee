"""What every reward scorer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modpo.errors import InputError, Problem


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
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
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


def finite(objective: str, values: Any, count: int) -> NDArray[np.float64]:
    """Rewards as a checked vector.

    Raises:
        InputError: not `count` numbers, or one that is not finite; the message names its position.
    """
    try:
        rewards = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        rewards = np.empty(0)
    bad: list[int] = np.flatnonzero(~np.isfinite(rewards)).tolist() if rewards.shape == (count,) else []
    if rewards.shape != (count,) or bad:
        got = f"{rewards[bad[0]]} for response {bad[0]} of the batch" if bad else f"shape {rewards.shape}"
        raise InputError(
            Problem(
                code="MS-231",
                what=f"the reward of {objective!r} did not give one finite number per response",
                where=f"objectives ({objective}).reward",
                got=got,
                wanted=f"{count} finite numbers",
                remedy="mend the reward function",
            )
        )
    return rewards
