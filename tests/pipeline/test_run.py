"""A whole sweep through the command line: what it leaves, what it does the second time, what it adds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import modpo
from tests.pipeline.conftest import FinishedRun

pytestmark = pytest.mark.pipeline

STAGES = ["prepare", "sft", "reference", "vertices", "annotate", "sweep", "report"]


def ledger(run: Path) -> dict[str, str]:
    """Every point's record as stored, to see whether anybody touched it."""
    return {path.parent.name: path.read_text(encoding="utf-8") for path in sorted(run.glob("points/*/point.json"))}


def test_every_stage_ran_and_every_point_is_finished(finished_run: FinishedRun) -> None:
    summary = finished_run.summary
    assert sorted(summary["stages"]) == sorted(STAGES)
    assert not any(stage["skipped"] for stage in summary["stages"].values())
    assert [point["weights"]["vivid"] for point in summary["points"]] == [1.0, 0.5, 0.0]
    assert {point["status"] for point in summary["points"]} == {"finished"}


def test_the_vertices_are_the_ends_of_the_front(finished_run: FinishedRun) -> None:
    """Two vertices and three points are three trainings: the ends were trained once."""
    assert len(ledger(finished_run.path)) == 3


def test_points_carry_values_with_intervals_and_the_exact_comparison(finished_run: FinishedRun) -> None:
    for point in finished_run.summary["points"]:
        for estimate in (*point["objectives"].values(), point["kl"], point["j_w"]):
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert 0 <= point["outside_mass"] <= 1
        assert point["self_scored"] == ["brief"]
        weighted = sum(point["weights"][name] * point["objectives"][name]["value"] for name in ("vivid", "brief"))
        assert point["j_w"]["value"] == pytest.approx(weighted - 0.5 * point["kl"]["value"], abs=1e-9)


def test_a_self_scored_vertex_is_its_own_optimum(finished_run: FinishedRun) -> None:
    """r = beta log(pi/pi_ref) makes pi the exact optimum at w = 1 and the same beta; no other point is exact."""
    distances = [point["kl_to_exact"] for point in finished_run.summary["points"]]
    assert distances[-1] == pytest.approx(0, abs=1e-9)
    assert min(distances[:-1]) > 1e-4


def test_no_reference_or_margin_model_was_scored_twice(finished_run: FinishedRun) -> None:
    tables = sorted(path.name.split("-")[0] for path in (finished_run.path / "artifacts").iterdir())
    assert tables == ["prepared", "reference", "rewards", "start_evaluation", "start_model"]


def test_trained_weights_open_as_an_ordinary_adapter(finished_run: FinishedRun) -> None:
    from peft import PeftConfig

    for point in finished_run.summary["points"]:
        assert PeftConfig.from_pretrained(str(finished_run.path / point["checkpoint"])).r == 4


def test_tune_has_one_row_a_point(finished_run: FinishedRun) -> None:
    rows = [
        json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        for path in sorted((finished_run.path / "tune" / "sweep").glob("*/result.json"))
    ]
    assert sorted(row["weight/vivid"] for row in rows) == [0.0, 0.5, 1.0]
    for row in rows:
        assert row["status"] == "finished" and Path(row["checkpoint_path"]).is_dir()
        assert {"vivid", "vivid_low", "vivid_high", "kl", "j_w", "beta", "seed", "device_seconds"} <= set(row)
    assert list((finished_run.path / "tune" / "sweep").glob("*/events.out.tfevents.*"))


def test_costs_add_up(finished_run: FinishedRun) -> None:
    """Device seconds of stages, points and parts, from desk and ledger, are one account."""
    summary = finished_run.summary
    costs, points = summary["costs"], summary["points"]
    by_stage = {name: part["device_seconds"] for name, part in costs["stages"].items()}
    assert sum(by_stage.values()) == pytest.approx(costs["device_seconds"])
    assert sum(part["share"] for part in costs["stages"].values()) == pytest.approx(1)
    assert all(by_stage[name] > 0 for name in ("sft", "reference", "vertices", "annotate", "sweep"))
    assert by_stage["prepare"] == 0, "no worker takes part in it"
    assert sum(point["training_device_seconds"] for point in points) == costs["training"]["device_seconds"]
    # The start model is measured too.
    assert sum(point["evaluation_device_seconds"] for point in points) < costs["evaluation"]["device_seconds"]
    assert costs["annotation"]["device_seconds"] == pytest.approx(by_stage["reference"] + by_stage["annotate"])
    assert f"device time {costs['device_seconds']:.0f} s: training" in finished_run.output


def test_points_know_what_their_steps_did(finished_run: FinishedRun) -> None:
    for point in finished_run.summary["points"]:
        assert 0 < point["step_device_seconds"] < point["training_device_seconds"] < point["device_seconds"]
        assert point["padded_ratio"] >= 1
        assert 0 < point["mfu"] < 2, "of a peak that is measured while others share the cores"
        assert point["tokens"] == pytest.approx(point["tokens_per_device_second"] * point["step_device_seconds"])
        folder = finished_run.path / "points" / point["trial_id"]
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert {"perf/tokens_per_s", "perf/padded_ratio", "perf/flops_per_s", "perf/mfu"} <= set(rows[0])


def test_tensorboard_has_speed_and_costs(finished_run: FinishedRun) -> None:
    for path in (finished_run.path / "tune" / "sweep").glob("*/events.out.tfevents.*"):
        events = path.read_bytes()
        # An end of the front was trained as a vertex, and its trial has nothing but costs.
        assert all(f"ray/tune/cost/{name}".encode() in events for name in ("mfu", "tokens", "useful_flops"))
    (middle,) = (finished_run.path / "tune" / "sweep").glob("vivid0.5*/events.out.tfevents.*")
    assert all(f"ray/tune/perf/{name}".encode() in middle.read_bytes() for name in ("mfu", "tokens_per_s"))


def test_the_same_command_again_skips_every_stage(finished_run: FinishedRun) -> None:
    before, costs = ledger(finished_run.path), finished_run.summary["costs"]
    done = finished_run.shell.modpo("run", finished_run.config)
    assert done.returncode == 0, done.stderr
    assert finished_run.summary["costs"] == costs
    assert done.stdout.count("already there, skipped") == len(STAGES)
    assert ledger(finished_run.path) == before
    assert all(stage["skipped"] for stage in finished_run.summary["stages"].values())


def test_the_python_api_reads_the_ledger_alone(finished_run: FinishedRun, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.path, copy, ignore=shutil.ignore_patterns("tune", "train"))
    run = modpo.load_run(copy)
    points = run.points()
    assert points["weights/vivid"].tolist() == [1.0, 0.5, 0.0]
    assert len(run.front()) == int((~points["dominated"].astype(bool)).sum())
    assert (run.weights_path(points["trial_id"][0]) / "adapter_model.safetensors").is_file()


def test_status_and_report_load_neither_ray_nor_deepspeed(finished_run: FinishedRun) -> None:
    for command in (["--help"], ["status", str(finished_run.path)], ["report", str(finished_run.path)]):
        code = (
            "import sys; from modpo.cli import main\n"
            f"try: main({command!r})\n"
            "except SystemExit as e: print('exit', e.code)\n"
            "print('loaded', sorted({'ray', 'deepspeed', 'torch'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "exit 0" in done.stdout and "loaded []" in done.stdout


def test_points_can_be_added_to_a_finished_sweep(finished_run: FinishedRun, tmp_path: Path) -> None:
    """Only the new points are trained; the tables are not made again."""
    shell = type(finished_run.shell)(tmp_path)
    shutil.copytree(finished_run.path, tmp_path / "runs" / "small")
    run = tmp_path / "runs" / "small"
    before = ledger(run)
    done = shell.modpo("run", finished_run.config, "--set", "sweep.weights.lattice=4")
    assert done.returncode == 0, done.stderr
    after = ledger(run)
    assert {name: after[name] for name in before} == before
    assert len(after) == 5
    stages = json.loads((run / "stages.json").read_text(encoding="utf-8"))
    assert [name for name in STAGES if not stages[name]["skipped"]] == ["sweep", "report"]


def test_evaluate_measures_again_without_training(finished_run: FinishedRun, tmp_path: Path) -> None:
    shell = type(finished_run.shell)(tmp_path)
    run = tmp_path / "runs" / "small"
    shutil.copytree(finished_run.path, run)
    weights = {path: path.read_bytes() for path in run.glob("points/*/final/adapter_model.safetensors")}
    done = shell.modpo("evaluate", run, "--set", "evaluation.samples_per_prompt=2")
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in weights} == weights
    records = [json.loads(text) for text in ledger(run).values()]
    assert {record["result"]["num_samples"] for record in records} == {12}


def test_a_run_of_another_config_is_refused(finished_run: FinishedRun) -> None:
    before = ledger(finished_run.path)
    done = finished_run.shell.modpo("run", finished_run.config, "--set", "training.learning_rate=0.5")
    assert done.returncode == 3
    assert "error[MS-312]: the run's folder belongs to another config" in done.stderr
    assert "got: training.learning_rate 0.5, was 0.001" in done.stderr
    assert ledger(finished_run.path) == before
