"""Every training that `modpo validate` accepts is trained, lost and resumed, alone and in two workers.

The first line of each docstring stands on docs/training-support.md.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.deepspeed.bare_loop import BareOutcome, bare_training
from tests.deepspeed.cells import ACCEPTED, CELLS, Cell, every_accepted_cell, refusals
from tests.deepspeed.conftest import Trajectory
from tests.deepspeed.pair import Pair
from tests.deepspeed.trainings import (
    DROPOUT_LORA,
    SAVED_STEP,
    Outcome,
    flat,
    train_interrupted,
    train_to_end,
    worst_relative,
)
from tests.deepspeed.two_workers import restore

BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}
"""How far losses of trainings may be apart that add the same numbers in another order.

Measured were 9e-7 and 1.0e-2. Even the larger bound lies below what a real fault does: a learning rate that is wrong by
a tenth moves a loss by 3.6e-2 with adapters, and by 1.2e-1 where all weights are trained.
"""


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "training-support.md").read_text(encoding="utf-8")


def is_exact_and_kept(cell: Cell) -> bool:
    return (cell.dtype, cell.offload) == ("float32", "none")


def is_kept(cell: Cell) -> bool:
    return cell.offload == "none"


@every_accepted_cell(fast=lambda cell: cell.offload == "none" or cell.dtype == "float32")
def test_one_worker_has_the_losses_of_plain_training(
    run_dir: Path, trajectory: Trajectory, accept: Accept, cell: Cell
) -> None:
    """Twenty steps of one worker have the losses of ZeRO 0 without offload, and those the ones of a bare torch loop."""
    is_plain = cell == cell.plain
    expected = bare_training(run_dir, cell.config(run_dir)) if is_plain else trajectory(*cell.plain)
    hold_losses(accept, cell, trajectory(*cell), expected)


@every_accepted_cell(fast=is_exact_and_kept)
def test_two_workers_have_the_losses_of_one(pair: Pair, trajectory: Trajectory, accept: Accept, cell: Cell) -> None:
    """Twenty steps of two workers have the losses of one worker; all weights in two micro-batches of each."""
    found = restore(pair.do("trained", cell.name) / f"trained-{cell.name}")
    hold_losses(accept, cell, found, trajectory(*cell.plain))


@every_accepted_cell(fast=is_kept)
def test_a_lost_worker_costs_no_bit(run_dir: Path, tmp_path: Path, accept: Accept, cell: Cell) -> None:
    """Lost after a checkpoint and started again, one worker ends with the same bits; adapters with dropout."""
    config = cell.config(run_dir, lora=DROPOUT_LORA, weight_decay=0.1, max_steps=6, save_steps=3)
    undisturbed = train_to_end(run_dir, config, tmp_path / "undisturbed")
    train_interrupted(run_dir, config, tmp_path / "resumed", step=5)
    hold_bits(accept, train_to_end(run_dir, config, tmp_path / "resumed"), undisturbed, after=3)


@every_accepted_cell(fast=is_exact_and_kept)
def test_two_lost_workers_cost_no_bit(pair: Pair, accept: Accept, cell: Cell) -> None:
    """Lost after a checkpoint and started again, two workers end with the same bits; adapters with dropout."""
    output = pair.do("lost", cell.name)
    for rank in (0, 1):
        resumed, undisturbed = (
            restore(output / f"{what}-{cell.name}", rank=rank) for what in ("resumed", "undisturbed")
        )
        hold_bits(accept, resumed, undisturbed, after=2)


@every_accepted_cell(fast=lambda cell: False)
def test_two_workers_go_on_where_one_stopped(pair: Pair, trajectory: Trajectory, accept: Accept, cell: Cell) -> None:
    """What one worker started, two workers end with its losses and its weights."""
    undisturbed, name = trajectory(*cell), f"continued-{cell.name}"
    go_on_from(undisturbed.checkpoints, pair.output / name / "checkpoints")
    hold_same_end(accept, cell, restore(pair.do("continued", cell.name) / name), undisturbed)


@every_accepted_cell(fast=lambda cell: False)
def test_one_worker_goes_on_where_two_stopped(
    run_dir: Path, tmp_path: Path, pair: Pair, trajectory: Trajectory, accept: Accept, cell: Cell
) -> None:
    """What two workers started, one worker ends with the losses and the weights of one."""
    go_on_from(pair.do("trained", cell.name) / f"trained-{cell.name}" / "checkpoints", tmp_path)
    hold_same_end(accept, cell, train_to_end(run_dir, cell.config(run_dir), tmp_path), trajectory(*cell))


def go_on_from(checkpoints: Path, place: Path) -> None:
    """Leaves the half-way checkpoint of a whole training as if it had been lost after it."""
    name = f"step_{SAVED_STEP:06d}"
    shutil.copytree(checkpoints / name, place / name)


def hold_losses(accept: Accept, cell: Cell, found: Outcome, expected: Outcome | BareOutcome) -> None:
    for what, quantity in (("losses", "the losses"), ("grad_norms", "the gradient norms")):
        difference = worst_relative(getattr(found, what), getattr(expected, what))
        print(f"{cell.name}: {what} differ by {difference:.1e}")
        if what == "losses" or cell.dtype == "float32":
            accept("D3", f"relative difference of {quantity}, {cell.dtype}", difference, at_most=BOUNDS[cell.dtype])
    assert len(found.losses) == 20


def hold_same_end(accept: Accept, cell: Cell, found: Outcome, undisturbed: Outcome) -> None:
    assert len(found.losses) == 20 - SAVED_STEP
    difference = worst_relative(found.losses, undisturbed.losses[SAVED_STEP:])
    accept("D3", f"relative difference of the losses, {cell.dtype}", difference, at_most=BOUNDS[cell.dtype])
    for part in ("parameters", "moments"):
        expected = flat(getattr(undisturbed, part))
        difference = float((flat(getattr(found, part)) - expected).norm() / expected.norm())
        print(f"{cell.name}: {part} differ by {difference:.1e}")
        if cell.dtype == "float32":
            accept("D3", f"relative difference of the {part} at the end", difference, at_most=BOUNDS[cell.dtype])


def hold_bits(accept: Accept, resumed: Outcome, undisturbed: Outcome, *, after: int) -> None:
    assert resumed.losses == undisturbed.losses[after:]
    accept("D4", "numbers that differ in a bit", differing(resumed.state, undisturbed.state), at_most=0)


def test_the_page_is_the_one_of_the_tests(page: str) -> None:
    from tests.deepspeed.cell_page import PAGE, training_page

    assert page == training_page(), f"out of date: python -m tests.deepspeed.cell_page > {PAGE}"


def test_every_cell_of_the_page_is_refused_or_names_tests_that_exist(page: str, request: pytest.FixtureRequest) -> None:
    """Told from what pytest collects in this file and from the refusals, not from what the page is written from."""
    names = re.findall(r"`((?:lora|full)-\w+-zero\d-\w+)`", page)
    tests = re.findall(r"`(tests/deepspeed/test_cells\.py::\w+)`", page)
    module = request.node.getparent(pytest.Module)
    assert module is not None
    collected = {item.nodeid for item in module.collect()}
    assert sorted(names) == sorted(cell.name for cell in ACCEPTED)
    assert {f"{test}[{name}]" for test in tests for name in names} == {
        nodeid for nodeid in collected if nodeid.endswith("]")
    }
    refused = [cell for cell in CELLS if cell not in ACCEPTED]
    assert page.count("| no: ") == len(refused) == 28
    for cell in refused:
        (problem,) = refusals(cell)
        assert f"**{problem.code}**: {problem.what}. Wanted: {problem.wanted}." in page
