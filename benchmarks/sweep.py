"""A whole sweep against the reference: `python -m benchmarks.sweep`, in processor seconds of one thread.

Ours: reference and margins of all pairs scored once, then one training a weight vector, each from the start model to
its final weights on disk, with the engine and the loop that users run, in a plain process. The reference: a loop of
reference steps for every weight vector. Start-up, which is what a process must import, is charged once to each side.

The trainings of both sides take turns. All of ours are run; of the reference's epochs, which do the same work again and
again, each turn runs an equal part of one, and what it took counts for all of them. `--full` runs every epoch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.measuring import (
    RESULTS,
    Ratio,
    commit,
    machine,
    measure,
    print_ratios,
    print_table,
    ratio,
    write_results,
)
from benchmarks.sweep_ours import SweepFiles, TrainedPoint, annotate, train, write_files
from benchmarks.sweep_reference import Batches, ReferencePoint, equal_parts, reference_batches, train_reference
from benchmarks.workloads import UNIFORM, ModelSize, Workload
from modpo.data.prepared import TokenisedPair
from modpo.telemetry import quiet_libraries
from modpo.training.process_group import process_group

BAR, BAR_POINTS, BAR_EPOCHS = 4.0, 5, 3
POINTS, EPOCHS = (1, 5, 11, 21), (1, 3)
OUR_IMPORTS = "import modpo.annotate, modpo.training.point"
REFERENCE_IMPORTS = "import torch, transformers, peft; from transformers import LlamaForCausalLM"


@dataclass(frozen=True)
class Form:
    """What one run of this benchmark measures.

    Attributes:
        shrink: lengths of the uniform workload are divided by this.
        points: trainings of each side.
        every_epoch: whether the reference runs all its epochs too.
    """

    size: ModelSize
    num_pairs: int
    shrink: int
    batch_size: int
    points: int
    epochs: int
    every_epoch: bool
    has_bar: bool

    def pairs(self) -> list[TokenisedPair]:
        workload = Workload(UNIFORM.name, UNIFORM.draw, self.num_pairs, seed=0)
        return workload.pairs(self.size.vocabulary, shrink=self.shrink)


# The output embeddings have the share of the multiplications that they have in the step benchmark's h=512 model.
MODEL = ModelSize(hidden=256, layers=2, intermediate=688, vocabulary=1024)
DEFAULT = Form(MODEL, 256, shrink=2, batch_size=8, points=5, epochs=3, every_epoch=False, has_bar=True)
FULL = Form(MODEL, 256, shrink=2, batch_size=8, points=21, epochs=3, every_epoch=True, has_bar=True)
QUICK = Form(
    ModelSize(hidden=128, layers=2, intermediate=344, vocabulary=512),
    num_pairs=32, shrink=2, batch_size=8, points=2, epochs=1, every_epoch=False, has_bar=False,
)  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """CPU seconds of everything that a sweep of either side consists of.

    Attributes:
        reference_share: which part of an epoch a pass of the reference was.
    """

    our_start: float
    reference_start: float
    annotation: float
    ours: Sequence[TrainedPoint]
    reference: Sequence[ReferencePoint]
    reference_share: float

    def our_sweep(self, num_points: int, num_epochs: int) -> list[float]:
        """Of a sweep whose points are all like the first, the second, and so on."""
        around = self.our_start + self.annotation
        return [around + num_points * (point.around + sum(point.epochs[:num_epochs])) for point in self.ours]

    def reference_sweep(self, num_points: int, num_epochs: int) -> list[float]:
        """The same; one pass stands for every epoch where no more of them were run."""
        return [
            self.reference_start + num_points * (point.loading + self._epochs(point, num_epochs))
            for point in self.reference
        ]

    def _epochs(self, point: ReferencePoint, num_epochs: int) -> float:
        return num_epochs * mean(point.passes[:num_epochs]) / self.reference_share


def main() -> None:
    """Prints one table, and writes the results."""
    arguments = _arguments()
    torch.set_num_threads(1)
    quiet_libraries()
    form = QUICK if arguments.quick else FULL if arguments.full else DEFAULT
    before = {"machine": machine(), "commit": commit()}
    with tempfile.TemporaryDirectory(prefix="modpo-benchmark-") as folder, process_group():
        costs = _measured(Path(folder), form)
    rows, ratios = _rows(form, costs), _ratios(form, costs)
    shares = _shares(form, costs)
    print_table(_title(form), rows)
    print_table(f"where our {form.points} points of {form.epochs} epochs spend their time", shares)
    print_table("forward passes of a point", _forwards(costs.ours))
    print_ratios("what the reference takes / what ours takes", ratios)
    at, load = datetime.now(UTC).isoformat(timespec="seconds"), machine()["load_average"]
    results: dict[str, Any] = before | {
        "measured": {"sweep": {"at": at, "commit": before["commit"], "load_average": load}},
        "title": _title(form),
        "rows": rows,
        "shares": shares,
        "forwards": _forwards(costs.ours),
    }
    write_results(arguments.results, results, ratios)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a small model and few pairs, in less than a minute")
    size.add_argument("--full", action="store_true", help="21 points of each side, and every epoch of the reference")
    parser.add_argument("--results", type=Path, default=RESULTS / "sweep.json", help="where the figures are written")
    return parser.parse_args()


def _measured(folder: Path, form: Form) -> Costs:
    pairs = form.pairs()
    files = write_files(folder, form.size, pairs, batch_size=form.batch_size, num_epochs=form.epochs)
    batches = reference_batches(pairs, form.batch_size)
    parts = [batches] * form.points if form.every_epoch else equal_parts(batches, form.points)
    annotation = annotate(files)
    ours, reference = [], []
    for number, part in enumerate(parts):
        # From one end of the front to the other, without its ends: plain DPO has no margin model to save.
        weight = (number + 1) / (form.points + 1)
        ours.append(train(files, f"point-{number}", weight))
        reference.append(_reference(files, part, weight, form))
    return Costs(
        our_start=measure([sys.executable, "-W", "ignore", "-c", OUR_IMPORTS])["cpu_seconds"],
        reference_start=measure([sys.executable, "-W", "ignore", "-c", REFERENCE_IMPORTS])["cpu_seconds"],
        annotation=annotation,
        ours=ours,
        reference=reference,
        reference_share=1.0 if form.every_epoch else 1 / form.points,
    )


def _reference(files: SweepFiles, part: Batches, weight: float, form: Form) -> ReferencePoint:
    return train_reference(
        files.start,
        files.folder / "adapter",
        part,
        primary_weight=weight,
        num_passes=form.epochs if form.every_epoch else 1,
    )


def _title(form: Form) -> str:
    return (
        f"whole sweep: {form.num_pairs} pairs, h={form.size.hidden}, {form.size.layers} layers, "
        f"V={form.size.vocabulary}, CPU seconds"
    )


def _rows(form: Form, costs: Costs) -> list[dict[str, Any]]:
    rows = []
    for num_points in POINTS:
        for num_epochs in (count for count in EPOCHS if count <= form.epochs):
            ours = mean(costs.our_sweep(num_points, num_epochs))
            reference = mean(costs.reference_sweep(num_points, num_epochs))
            rows.append(
                {
                    "points": num_points,
                    "epochs": num_epochs,
                    "ours": round(ours, 1),
                    "reference": round(reference, 1),
                    "ratio": round(reference / ours, 2),
                    "trained_by_us": min(num_points, form.points),
                }
            )
    return rows


def _ratios(form: Form, costs: Costs) -> dict[str, Ratio]:
    return {
        f"N={points}, E={epochs}": ratio(
            costs.our_sweep(points, epochs),
            costs.reference_sweep(points, epochs),
            bar=BAR if form.has_bar and (points, epochs) == (BAR_POINTS, BAR_EPOCHS) else None,
        )
        for points in POINTS
        for epochs in EPOCHS
        if epochs <= form.epochs
    }


def _shares(form: Form, costs: Costs) -> list[dict[str, Any]]:
    """Parts of our sweep as it was run, in CPU seconds."""
    parts = {
        "start-up": costs.our_start,
        "annotation": costs.annotation,
        "around the epochs": sum(point.around for point in costs.ours),
        "epochs": sum(sum(point.epochs) for point in costs.ours),
    }
    total = sum(parts.values())
    return [{"part": name, "seconds": round(s, 1), "share": f"{s / total:.1%}"} for name, s in parts.items()]


def _forwards(points: Sequence[TrainedPoint]) -> list[dict[str, Any]]:
    return [
        {
            "point": number,
            "micro_batches": point.micro_batches,
            "of_the_policy": point.policy_forwards,
            "of_reference_and_margins": point.other_forwards,
            "before_the_first_step": point.forwards_before,
        }
        for number, point in enumerate(points)
    ]


if __name__ == "__main__":
    main()
