"""Which prompts no trial trains on: a seeded share of the distinct ones, known without keeping their texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HeldOut:
    """Contains the prompts that are held out, by `prompt_key`: those of the lowest seeded ranks.

    Attributes:
        last: the highest rank that is held out.
    """

    seed: int
    last: int

    def __contains__(self, key: str) -> bool:
        return seeded_rank(self.seed, key) <= self.last


def held_out_prompts(prompts: Iterable[str], *, fraction: float, seed: int) -> HeldOut:
    """A seeded share of the distinct prompts, at least one, chosen by hash: the order of the rows does not matter."""
    ranks = distinct_ranks(prompts, seed)
    return HeldOut(seed, highest_of(ranks, max(1, math.ceil(fraction * len(ranks)))))


def distinct_ranks(keys: Iterable[str], seed: int | str) -> NDArray[np.uint64]:
    """The seeded ranks of texts, each once, in rising order; eight bytes are kept of a text."""
    return np.unique(np.fromiter((seeded_rank(seed, key) for key in keys), dtype=np.uint64))


def highest_of(ranks: NDArray[np.uint64], count: int) -> int:
    """The highest of the lowest `count` ranks; -1 where there are none."""
    return int(ranks[:count][-1]) if len(ranks) else -1


def seeded_rank(seed: int | str, key: str) -> int:
    """Eight bytes of SHA-256: an order of texts that follows neither them nor the rows."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")
