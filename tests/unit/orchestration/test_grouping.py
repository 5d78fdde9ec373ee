"""Which points one slot trains together: never at the cost of a free slot, and only where a step is small."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from modpo.config.spec import TrialSpec
from modpo.orchestration.grouping import LARGEST, LayerSize, StepSize, grouped, largest_group


def trial(number: int, *, source: int = 0, seed: int = 0) -> TrialSpec:
    return TrialSpec(
        trial_id=f"t{number}",
        weights=(0.5, 0.5),
        primary=source,
        beta=0.1,
        seed=seed,
        sources=(source,),
        uses_rewards=True,
    )


def sizes(groups: Sequence[Sequence[TrialSpec]]) -> list[int]:
    return sorted(map(len, groups), reverse=True)


@pytest.mark.parametrize(
    ("num_trials", "slots", "largest", "expected"),
    [
        (6, 2, 8, [3, 3]),
        (7, 2, 8, [4, 3]),
        (6, 4, 8, [2, 2, 1, 1]),
        (4, 4, 8, [1, 1, 1, 1]),
        (3, 8, 8, [1, 1, 1]),
        (6, 2, 1, [1] * 6),
        (6, 1, 8, [6]),
        # Two rounds of two slots: three groups would leave a slot with nothing to do in the second.
        (20, 2, 8, [5, 5, 5, 5]),
        (0, 2, 8, []),
    ],
)
def test_every_slot_has_a_group_before_any_has_two(
    num_trials: int, slots: int, largest: int, expected: list[int]
) -> None:
    trials = [trial(number) for number in range(num_trials)]
    groups = grouped(trials, slots=slots, largest=largest)
    assert sizes(groups) == expected
    assert sorted(each.trial_id for group in groups for each in group) == sorted(each.trial_id for each in trials)


def test_only_points_of_the_same_pairs_and_seed_are_together() -> None:
    """Four of one objective, three of another, two of another seed, on two slots: three groups and no fewer."""
    trials = [trial(n) for n in range(4)] + [trial(n, source=1) for n in (4, 5, 6)] + [trial(n, seed=1) for n in (7, 8)]
    groups = grouped(trials, slots=2, largest=8)
    assert sizes(groups) == [4, 3, 2]
    assert all(len({(each.sources, each.seed) for each in group}) == 1 for group in groups)


def test_the_largest_kind_is_split_first() -> None:
    """Six and one on three slots: halving the six leaves no slot without work."""
    trials = [trial(n) for n in range(6)] + [trial(6, source=1)]
    assert sizes(grouped(trials, slots=3, largest=8)) == [3, 3, 1]


class TestLargest:
    """Sizes at which groups were measured, and models of the sizes that people train."""

    @pytest.mark.parametrize(
        ("tokens", "hidden_size", "expected"),
        [(168, 64, LARGEST), (672, 64, 5), (240, 128, LARGEST), (720, 128, 2), (240, 256, 4), (720, 256, 1)],
    )
    def test_on_a_cpu(self, tokens: float, hidden_size: int, expected: int) -> None:
        step = StepSize(tokens, LayerSize(hidden_size, 12 * hidden_size**2))
        assert largest_group(step, on_gpu=False) == expected

    @pytest.mark.parametrize(
        ("tokens", "num_weights", "expected"),
        [(300, 15e6, LARGEST), (1000, 15e6, 3), (4000, 15e6, 1), (500, 47e6, 1), (300, 202e6, 1)],
        ids=["0.5B-300", "0.5B-1000", "0.5B-4000", "1.5B-500", "7B-300"],
    )
    def test_on_a_gpu(self, tokens: float, num_weights: float, expected: int) -> None:
        assert largest_group(StepSize(tokens, LayerSize(1024, int(num_weights))), on_gpu=True) == expected
