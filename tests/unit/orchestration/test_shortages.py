"""What a user is told where memory or disk ran short: what there was, and a remedy that is the same training."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpo.config.spec import StageInputs, Work, WorkKind
from modpo.orchestration.shortages import out_of_memory, peak_memory
from tests.sweeps import raw_sweep, world_sweep


def work(tmp_path: Path, kind: WorkKind, **training: int) -> Work:
    config = world_sweep(tmp_path, **raw_sweep(training=training, data={"max_length": 100}))
    inputs = StageInputs(prepared="prepared", start_model="model")
    return Work(work_id="point-a", kind=kind, run_dir="run", config=config, inputs=inputs, output="out")


@pytest.mark.parametrize(
    ("rows", "accumulation", "remedy"), [(8, 2, (4, 4)), (9, 1, (3, 3)), (12, 5, (6, 10)), (11, 2, (1, 22))]
)
def test_fewer_rows_with_more_accumulation_are_the_same_batch(
    tmp_path: Path, rows: int, accumulation: int, remedy: tuple[int, int]
) -> None:
    sizes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    problem = out_of_memory(work(tmp_path, "point", **sizes), 3, "a peak of 1,234 bytes")
    assert remedy[0] * remedy[1] == rows * accumulation
    assert problem.remedy.startswith(
        f"training.per_device_train_batch_size={remedy[0]} with training.gradient_accumulation_steps={remedy[1]} is"
    )
    # 100 tokens of a row, and 256 that an evaluation may sample behind them.
    assert (problem.where, problem.got) == (
        "rank 3",
        f"a peak of 1,234 bytes; batches of {rows} rows x up to 356 tokens",
    )


def test_one_row_is_not_halved(tmp_path: Path) -> None:
    problem = out_of_memory(work(tmp_path, "point", per_device_train_batch_size=1), 0, "")
    assert problem.remedy.startswith("training.gradient_checkpointing, a higher training.deepspeed.stage")


def test_what_only_scores_has_another_batch(tmp_path: Path) -> None:
    assert out_of_memory(work(tmp_path, "reference"), 0, "").remedy == "lower evaluation.batch_size"


def test_the_peak_is_at_least_what_this_process_holds_now() -> None:
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    peak = int("".join(filter(str.isdigit, peak_memory())))
    assert peak >= 0.9 * int(resident.split()[1]) * 1024
