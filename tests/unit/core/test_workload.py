"""Counts that add up, and rates that follow from them, against sums done by hand."""

from __future__ import annotations

import pytest

from modpo.core.flops import MatmulShape, row_workload, step_flops
from modpo.core.trees import Tree, tree_batch
from modpo.core.workload import UNKNOWN_WORKLOAD, StepTotals, Workload, step_rates, step_totals

# Prompts of 3, 3 and 1 tokens, the first two equal; responses of 2 and 4, 1 and 3, 5 and 1 tokens.
PAIRS = [
    Tree((1, 2, 3), ((4, 5), (6, 7, 8, 9))),
    Tree((1, 2, 3), ((4,), (6, 7, 8))),
    Tree((1,), ((2, 3, 4, 5, 6), (7,))),
]
SHAPE = MatmulShape(layers=1100, trained=100, without_input_grad=300, head=700, head_trains=False, attention=16)


def test_a_row_by_hand() -> None:
    """3 + 10 and 1 + 6 tokens where the equal prompts are shared; padded, six sequences of 3 + 4 tokens."""
    batch = tree_batch(PAIRS, share_prompts=True)
    found = row_workload(batch.layout, len(batch.targets), SHAPE)
    assert (found.tokens, found.padded_tokens) == (20, 6 * 7)
    assert found.flops == step_flops(SHAPE, batch.layout, 16)


def test_operations_are_unknown_without_the_models_shape() -> None:
    batch = tree_batch(PAIRS)
    assert row_workload(batch.layout, len(batch.targets), None) == Workload(23, 42, None)


def test_rows_that_share_no_prompt_need_the_same_operations_however_they_are_split() -> None:
    whole = tree_batch(PAIRS)
    parts = [tree_batch(PAIRS[:1]), tree_batch(PAIRS[1:])]
    first, second = (row_workload(part.layout, len(part.targets), SHAPE) for part in parts)
    together, split = row_workload(whole.layout, 16, SHAPE), first + second
    assert (split.tokens, split.flops) == (together.tokens, together.flops)
    assert split.padded_tokens == 2 * 7 + 4 * 6, "each part is padded to its own longest sequence"


def test_what_is_unknown_stays_unknown_in_every_sum() -> None:
    assert Workload(1, 2, 3) + Workload(10, 20, None) == Workload(11, 22, None)
    assert Workload(1, 2, 3) + UNKNOWN_WORKLOAD == UNKNOWN_WORKLOAD
    assert StepTotals(1, 2, None, 0.5, None) + StepTotals(1, 2, 3, 0.5, 9.0) == StepTotals(2, 4, None, 1.0, None)


@pytest.mark.parametrize("workload", [Workload(3, 7, 2**53), Workload(3, 7, None), UNKNOWN_WORKLOAD])
def test_counts_travel_as_floats(workload: Workload) -> None:
    assert Workload.from_floats(workload.as_floats()) == workload


def test_rates_of_a_step_by_hand() -> None:
    """4 devices for 0.5 s at a peak of 10^6 operations a second could have done 2 * 10^6."""
    step = step_totals(Workload(100, 150, 5 * 10**5), seconds=0.5, num_devices=4, peak_flops_per_second=1e6)
    assert step == StepTotals(100, 150, 5 * 10**5, device_seconds=2.0, peak_flops=2e6)
    assert step_rates(step, seconds=0.5) == {
        "perf/tokens_per_s": 200.0,
        "perf/padded_ratio": 1.5,
        "perf/flops_per_s": 1e6,
        "perf/mfu": 0.25,
    }
    assert step.tokens_per_device_second == 50.0


def test_no_rate_of_what_is_not_known() -> None:
    step = step_totals(Workload(100, 150, None), seconds=0.5, num_devices=1, peak_flops_per_second=None)
    assert step_rates(step, seconds=0.5) == {"perf/tokens_per_s": 200.0, "perf/padded_ratio": 1.5}
    unknown = step_totals(UNKNOWN_WORKLOAD, seconds=0.5, num_devices=1, peak_flops_per_second=1e6)
    assert step_rates(unknown, seconds=0.5) == {}


def test_nothing_done_has_no_rates() -> None:
    nothing = StepTotals()
    assert (nothing.padded_ratio, nothing.mfu, nothing.tokens_per_device_second) == (None, None, None)
