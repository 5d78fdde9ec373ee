"""Where the device time went: sums by hand, and shares that leave nothing out."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from modpo.analysis.front import summarise_run
from modpo.analysis.report import write_report
from modpo.artifacts import read_json, write_json
from modpo.core.workload import StepTotals
from tests.unit.analysis.ledgers import MadePoint, everywhere, make_config, write_run

TWO = make_config("vivid", "brief")
ENDS = [
    MadePoint(trial_id="a", weights=(1.0, 0.0), values=everywhere(4, 1)),
    MadePoint(trial_id="c", weights=(0.0, 1.0), values=everywhere(1, 4)),
]
MIDDLE = MadePoint(trial_id="b", weights=(0.5, 0.5), values=everywhere(3, 3))
UNCOUNTED = StepTotals(tokens=4000, padded_tokens=6000, flops=None, device_seconds=8.0, peak_flops=None)
STAGES = {
    "prepare": {"seconds": 3.0, "device_seconds": 0.0, "skipped": True},
    "sft": {"seconds": 6.0, "device_seconds": 5.0, "skipped": False},
    "reference": {"seconds": 2.0, "device_seconds": 1.5, "skipped": False},
    "vertices": {"seconds": 20.0, "device_seconds": 0.0, "skipped": False},
    "annotate": {"seconds": 2.0, "device_seconds": 2.5, "skipped": False},
    "sweep": {"seconds": 30.0, "device_seconds": 1.0, "skipped": False},
}


def run_with(folder: Path, stages: dict[str, dict[str, object]], *, trials: tuple[str, ...] = ()) -> Path:
    """Three points of 10 device seconds of training and 2.5 of evaluation each; two of them are vertices."""
    run_dir = write_run(folder, TWO, [*ENDS, MIDDLE], vertices=["a", "c"], trials=trials)
    write_json(run_dir / "stages.json", stages)
    return run_dir


def test_every_stage_by_hand(tmp_path: Path) -> None:
    """Vertices are trained in their own stage and measured in the sweep, where the start model is measured too."""
    costs = summarise_run(run_with(tmp_path, STAGES))["costs"]
    by_stage = {name: part["device_seconds"] for name, part in costs["stages"].items()}
    assert by_stage == {
        "prepare": 0.0, "sft": 5.0, "reference": 1.5, "vertices": 20.0, "annotate": 2.5, "sweep": 10 + 3 * 2.5 + 1,
    }  # fmt: skip
    assert list(by_stage) == list(STAGES), "in the order of the pipeline"
    assert costs["device_seconds"] == pytest.approx(47.5)
    assert costs["training"] == {"device_seconds": 30.0, "share": pytest.approx(30 / 47.5)}
    assert costs["annotation"] == {"device_seconds": 4.0, "share": pytest.approx(4 / 47.5)}
    assert costs["evaluation"] == {"device_seconds": 8.5, "share": pytest.approx(8.5 / 47.5)}


def test_shares_of_the_stages_add_up_to_the_whole(tmp_path: Path) -> None:
    stages = {**STAGES, "evaluate": {"seconds": 4.0, "device_seconds": 2.0, "skipped": False}}
    costs = summarise_run(run_with(tmp_path, stages))["costs"]
    assert costs["stages"]["evaluate"] == {"device_seconds": None, "share": None}
    assert sum(part["share"] for part in costs["stages"].values() if part["share"] is not None) == pytest.approx(1)
    assert costs["evaluation"]["device_seconds"] == pytest.approx(3 * 2.5 + 1 + 2)


def test_points_that_the_sweep_no_longer_asks_for_were_paid_for(tmp_path: Path) -> None:
    asked, all_of_them = (
        summarise_run(run_with(tmp_path / name, STAGES, trials=trials))["costs"]
        for name, trials in (("some", ("a", "b")), ("all", ()))
    )
    assert asked == all_of_them


def test_a_running_sweep_costs_before_its_stage_has_ended(tmp_path: Path) -> None:
    costs = summarise_run(run_with(tmp_path, {}))["costs"]
    assert {name: part["device_seconds"] for name, part in costs["stages"].items()} == {
        "vertices": 20.0,
        "sweep": 10 + 3 * 2.5,
    }


def test_a_run_that_has_not_begun_has_no_shares(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, [], trials=["a"])
    write_json(run_dir / "stages.json", {})
    costs = summarise_run(run_dir)["costs"]
    nothing = {"device_seconds": 0.0, "share": None}
    assert costs == {
        "device_seconds": 0.0, "stages": {}, "training": nothing, "annotation": nothing, "evaluation": nothing,
    }  # fmt: skip


NEW_FIELDS = {"evaluation_device_seconds", "training"}
"""Of a point in the ledger, which 0.1.0 did not write."""


def test_a_run_of_an_earlier_version_can_still_be_read(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, {"prepare": {"seconds": 3.0, "skipped": True}})
    manifest = read_json(run_dir / "run.json")
    del manifest["vertices"]
    write_json(run_dir / "run.json", manifest)
    for record in (run_dir / "points").glob("*/point.json"):
        old = {name: value for name, value in read_json(record).items() if name not in NEW_FIELDS}
        write_json(record, old)
    assert summarise_run(run_dir)["costs"]["stages"]["sweep"]["device_seconds"] == 3 * 12.5


def test_a_point_says_what_its_training_did(tmp_path: Path) -> None:
    (point,) = summarise_run(write_run(tmp_path, TWO, [MIDDLE]))["points"]
    assert point["device_seconds"] == point["training_device_seconds"] + point["evaluation_device_seconds"] == 12.5
    assert (point["tokens"], point["padded_ratio"], point["tokens_per_device_second"]) == (4000, 1.5, 500.0)
    assert (point["step_device_seconds"], point["useful_flops"], point["mfu"]) == (8.0, 3e12, 0.6)


def test_ledger_summary_tables_and_page_agree(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, [MIDDLE, replace(ENDS[0], training=UNCOUNTED)])
    write_report(run_dir)
    points = read_json(run_dir / "report" / "summary.json")["points"]
    columns = pyarrow.parquet.read_table(run_dir / "report" / "points.parquet").to_pydict()
    with (run_dir / "report" / "points.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    for name in ("tokens", "padded_ratio", "tokens_per_device_second", "useful_flops", "mfu", "step_device_seconds"):
        assert columns[name] == [point[name] for point in points]
        assert [row[name] for row in cells] == ["" if v is None else str(v) for v in columns[name]]
    assert columns["mfu"] == [0.6, None]
    page = (run_dir / "report" / "index.html").read_text(encoding="utf-8")
    table = page.split('<table id="training">')[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("</tr>")[1:-1]]
    assert [" ".join(cell.split()) for cell in rows[0][2:]] == [
        "12.5 s", "2.5 s", "8.0 s", "4,000", "1.50", "500", "3.000", "60.0 %",
    ]  # fmt: skip
    assert [cell.strip() for cell in rows[1][-2:]] == ["—", "—"]


def test_operations_beyond_the_integers_of_a_double_are_written(tmp_path: Path) -> None:
    huge = replace(MIDDLE.training, flops=2**60 + 1)
    run_dir = write_run(tmp_path, TWO, [replace(MIDDLE, training=huge)])
    write_report(run_dir)
    assert pyarrow.parquet.read_table(run_dir / "report" / "points.parquet")["useful_flops"].to_pylist() == [2.0**60]
    ledger = json.loads((run_dir / "points" / "b" / "point.json").read_text(encoding="utf-8"))
    assert ledger["training"]["flops"] == 2**60 + 1


def test_page_shows_where_the_time_went(tmp_path: Path) -> None:
    stages = {**STAGES, "evaluate": {"seconds": 4.0, "device_seconds": 2.0, "skipped": False}}
    run_dir = run_with(tmp_path, stages)
    write_report(run_dir)
    page = (run_dir / "report" / "index.html").read_text(encoding="utf-8")
    table = page.split('<table id="stages">')[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("</tr>")[1:-1]]
    shown = {cells[0]: [" ".join(cell.split()) for cell in cells[1:]] for cells in rows}
    assert shown["vertices"] == ["20.0 s", "20.0 s", "40.4 %"]
    assert shown["prepare"] == ["3.0 s (earlier call)", "0.0 s", "0.0 %"]
    assert shown["evaluate"] == ["4.0 s", "under sweep", "—"]
