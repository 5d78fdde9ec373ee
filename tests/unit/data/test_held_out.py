"""The share of prompts that no trial trains on: seeded, by hash, whatever the rows' order and number."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable

import pytest

from modpo.data.held_out import held_out_prompts

PROMPTS = [f"prompt {number}" for number in range(40)]


def held_out(prompts: list[str], *, fraction: float, seed: int) -> set[str]:
    found = held_out_prompts(iter(prompts), fraction=fraction, seed=seed)
    return {prompt for prompt in prompts if prompt in found}


def by_sorting(prompts: Iterable[str], *, fraction: float, seed: int) -> set[str]:
    """The same share by another route: all distinct prompts in memory, sorted by the whole digest."""
    ranked = sorted(set(prompts), key=lambda prompt: hashlib.sha256(f"{seed}:{prompt}".encode()).hexdigest())
    return set(ranked[: math.ceil(fraction * len(ranked))])


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_eight_bytes_a_prompt_give_what_sorting_their_texts_gives(fraction: float) -> None:
    prompts = [f"{number % 700} ü" for number in range(2000)]
    assert held_out(prompts, fraction=fraction, seed=3) == by_sorting(prompts, fraction=fraction, seed=3)


def test_order_and_repetition_of_rows_do_not_matter() -> None:
    shuffled = PROMPTS * 3
    random.Random(0).shuffle(shuffled)
    assert held_out(shuffled, fraction=0.2, seed=1) == held_out(PROMPTS, fraction=0.2, seed=1)


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 10), (0.1, 4), (0.01, 1), (0.06, 3)])
def test_share_is_of_distinct_prompts_rounded_up_and_at_least_one(fraction: float, count: int) -> None:
    assert len(held_out(PROMPTS * 2, fraction=fraction, seed=0)) == count


def test_a_prompt_with_many_rows_is_one_prompt() -> None:
    often = [*PROMPTS, *PROMPTS[:3] * 100]
    assert held_out(often, fraction=0.25, seed=0) == held_out(PROMPTS, fraction=0.25, seed=0)


def test_seed_draws_another_share() -> None:
    draws = {frozenset(held_out(PROMPTS, fraction=0.1, seed=seed)) for seed in range(6)}
    assert len(draws) == 6


def test_a_larger_share_contains_the_smaller() -> None:
    """A prompt that was held out stays so when more are."""
    small, large = (held_out(PROMPTS, fraction=fraction, seed=0) for fraction in (0.1, 0.3))
    assert small < large


def test_a_new_prompt_moves_hardly_any_other() -> None:
    """Chosen by hash, not by position: one prompt more changes at most one of the others."""
    before, after = (held_out(p, fraction=0.25, seed=0) for p in (PROMPTS, [*PROMPTS, "new"]))
    assert len(before - after) <= 1


def test_without_prompts_nothing_is_held_out() -> None:
    assert "a" not in held_out_prompts([], fraction=0.5, seed=0)
