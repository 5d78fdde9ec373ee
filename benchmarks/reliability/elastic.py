"""A training of two workers that goes on with one and then with two again: the same rows in every step, and weights."""

from __future__ import annotations

import torch

from benchmarks.reliability.base import write_base_world
from benchmarks.reliability.figures import Figure, Measured, Options
from modpo.training.process_group import process_group
from tests.deepspeed.pair import Pair
from tests.deepspeed.resizing import Resized, resize
from tests.deepspeed.trainings import KINDS, STAGES, write_run

MOST_DISTANCE = 1e-5


def measure(options: Options) -> Measured:
    """Adapters and whole models, under every ZeRO stage, against two workers all the way."""
    torch.set_num_threads(1)
    run_dir, output = options.folder / "run", options.folder / "pair"
    write_base_world(run_dir / "world")
    output.mkdir()
    found: dict[tuple[str, int], Resized] = {}
    pair = Pair(run_dir, output)
    try:
        with process_group():
            write_run(run_dir)
            for kind in KINDS:
                for stage in STAGES:
                    found[kind, stage] = resize(run_dir, pair, kind=kind, stage=stage)
    finally:
        pair.end()
    options.say(f"{len(found)} trainings of 2, 1 and 2 workers")
    ordered = sum(resized.is_in_order for resized in found.values())
    return Measured(
        {
            "elastic 2→1→2: trainings with the exact order of samples": Figure(ordered, len(found), "at least"),
            "elastic 2→1→2: relative L2 distance of the weights": Figure(
                max(resized.distance for resized in found.values()), MOST_DISTANCE, "at most"
            ),
        },
        [
            {"kind": kind, "zero_stage": stage, "in_order": r.is_in_order, "distance": r.distance}
            for (kind, stage), r in found.items()
        ],
    )
