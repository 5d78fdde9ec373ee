"""The summary of small runs whose figures are worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from modpo.analysis.front import read_manifest, summarise_run
from modpo.artifacts import MANIFEST, write_json
from modpo.config.load import parse_config
from modpo.core.estimators import bootstrap_mean
from modpo.errors import InputError
from modpo.ledger import point_dir
from tests.unit.analysis.ledgers import BETA, MadePoint, everywhere, make_config, write_run

TWO = make_config("vivid", "brief")
VIVID, BRIEF, HALF = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def three_points() -> list[MadePoint]:
    return [
        MadePoint(trial_id="a", weights=VIVID, values=everywhere(4, 1), exact=(5, 1)),
        MadePoint(trial_id="b", weights=HALF, values=everywhere(3, 3), exact=(3.5, 3.5)),
        MadePoint(trial_id="c", weights=BRIEF, values=everywhere(1, 4), exact=(1, 5)),
    ]


def without_exact(points: list[MadePoint]) -> list[MadePoint]:
    return [MadePoint(trial_id=p.trial_id, weights=p.weights, values=p.values) for p in points]


def problems_of(run_dir: Path) -> list[tuple[str, str]]:
    with pytest.raises(InputError) as caught:
        summarise_run(run_dir)
    return [(problem.code, Path(problem.where).name) for problem in caught.value.problems]


def test_hypervolume_of_three_points_above_their_own_corner(tmp_path: Path) -> None:
    """Nadir (1, 1) and range 3 give the corner (0.7, 0.7).

    Slabs from the right: (4 - 3)(1 - .7) + (3 - 1)(3 - .7) + (1 - .7)(4 - .7) = .3 + 4.6 + .99 = 5.89.
    """
    summary = summarise_run(write_run(tmp_path, TWO, without_exact(three_points())))
    volume = summary["hypervolume"]
    assert volume["value"] == pytest.approx(5.89, abs=1e-12)
    assert volume["hv_ref_point"] == pytest.approx({"vivid": 0.7, "brief": 0.7})
    assert volume["hv_ref_point_from"] == "trained"
    # Every prompt says the same, so there is nothing to be uncertain about.
    assert volume["low"] == pytest.approx(5.89)
    assert volume["high"] == pytest.approx(5.89)
    assert summary["exact"] is None


def test_dominated_point_is_marked_and_adds_no_volume(tmp_path: Path) -> None:
    worse = MadePoint(trial_id="d", weights=HALF, values=everywhere(2, 2))
    summary = summarise_run(write_run(tmp_path, TWO, [*without_exact(three_points()), worse]))
    assert {point["trial_id"]: point["dominated"] for point in summary["points"]} == {
        "a": False,
        "b": False,
        "c": False,
        "d": True,
    }
    assert summary["hypervolume"]["value"] == pytest.approx(5.89, abs=1e-12)


def test_exact_front_gives_the_corner_and_the_ratio(tmp_path: Path) -> None:
    """Exact nadir (1, 1) and range 4 give the corner (0.6, 0.6), for both fronts.

    Exact: 1.5 * .4 + 2.5 * 2.9 + .4 * 4.4 = 9.61. Trained: 1 * .4 + 2 * 2.4 + .4 * 3.4 = 6.56.
    """
    summary = summarise_run(write_run(tmp_path, TWO, three_points()))
    assert summary["hypervolume"]["hv_ref_point"] == pytest.approx({"vivid": 0.6, "brief": 0.6})
    assert summary["hypervolume"]["hv_ref_point_from"] == "exact"
    assert summary["hypervolume"]["value"] == pytest.approx(6.56, abs=1e-12)
    assert summary["exact"]["hypervolume"] == pytest.approx(9.61, abs=1e-12)
    assert summary["exact"]["ratio"] == pytest.approx(6.56 / 9.61, abs=1e-12)
    assert summary["exact"]["mean_kl_to_exact"] == pytest.approx(0.02)
    assert summary["points"][0]["exact_objectives"] == {"vivid": 5.0, "brief": 1.0}


def test_exact_front_needs_the_exact_optimum_of_every_point(tmp_path: Path) -> None:
    points = [*three_points()[:2], *without_exact(three_points())[2:]]
    summary = summarise_run(write_run(tmp_path, TWO, points))
    assert summary["exact"] is None
    assert summary["hypervolume"]["hv_ref_point_from"] == "trained"
    assert summary["points"][2]["exact_objectives"] is None


def test_hypervolume_interval_resamples_prompts(tmp_path: Path) -> None:
    """Two prompts: a quarter of the resamples is all first, a quarter all second, so the bounds are their volumes.

    With a = (v, 1) and c = (1, 5) above (.6, .6) the volume is (v - 1) * .4 + .4 * 4.4 = .4 v + 1.36.
    """
    points = [
        MadePoint(trial_id="a", weights=VIVID, values=[[4, 1], [6, 1]]),
        MadePoint(trial_id="c", weights=BRIEF, values=[[1, 5], [1, 5]]),
    ]
    volume = summarise_run(write_run(tmp_path, TWO, points))["hypervolume"]
    assert (volume["low"], volume["value"], volume["high"]) == pytest.approx((2.96, 3.36, 3.76), abs=1e-12)


def test_one_point_has_no_volume_above_its_own_corner(tmp_path: Path) -> None:
    summary = summarise_run(write_run(tmp_path, TWO, without_exact(three_points())[:1]))
    assert summary["hypervolume"]["value"] == 0
    assert summary["monotonicity"] == {"num_pairs": 0, "violations": []}


def test_swapped_points_break_monotonicity_and_prompt_noise_cancels(tmp_path: Path) -> None:
    """(w - w').(E - E') = (1, -1).(-3, 3) = -6 on every prompt: what makes a prompt hard is shared by all points."""
    noise = np.array([[-50.0], [0.0], [20.0], [90.0]])
    points = [
        MadePoint(trial_id="a", weights=VIVID, values=(noise + np.array([1, 4])).tolist()),
        MadePoint(trial_id="c", weights=BRIEF, values=(noise + np.array([4, 1])).tolist()),
    ]
    monotonicity = summarise_run(write_run(tmp_path, TWO, points))["monotonicity"]
    assert monotonicity["num_pairs"] == 1
    (violation,) = monotonicity["violations"]
    assert (violation["first"], violation["second"]) == ("a", "c")
    assert (violation["low"], violation["value"], violation["high"]) == pytest.approx((-6, -6, -6))


def test_pair_whose_interval_reaches_zero_is_no_violation(tmp_path: Path) -> None:
    """Gaps of -3 and +1 average to -1, but a quarter of the resamples says +1."""
    points = [
        MadePoint(trial_id="a", weights=VIVID, values=[[-3, 0], [1, 0]]),
        MadePoint(trial_id="c", weights=BRIEF, values=[[0, 0], [0, 0]]),
    ]
    monotonicity = summarise_run(write_run(tmp_path, TWO, points))["monotonicity"]
    assert monotonicity == {"num_pairs": 1, "violations": []}


def test_monotonicity_compares_one_beta_and_different_weights_only(tmp_path: Path) -> None:
    """Of six pairs, three cross betas and one repeats the weights with another seed."""
    points = [
        MadePoint(trial_id="a", weights=VIVID, values=everywhere(1, 4)),
        MadePoint(trial_id="a-seed", weights=VIVID, values=everywhere(1, 4), seed=1),
        MadePoint(trial_id="c", weights=BRIEF, values=everywhere(4, 1)),
        MadePoint(trial_id="c-beta", weights=BRIEF, values=everywhere(4, 1), beta=5 * BETA),
    ]
    monotonicity = summarise_run(write_run(tmp_path, TWO, points))["monotonicity"]
    assert monotonicity["num_pairs"] == 2
    assert {(v["first"], v["second"]) for v in monotonicity["violations"]} == {("a", "c"), ("a-seed", "c")}


def test_violation_has_the_interval_that_a_bootstrap_of_its_gaps_has(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(2, 40, 2)) + np.array([[[-2, 2]], [[2, -2]]])
    points = [
        MadePoint(trial_id="a", weights=VIVID, values=values[0].tolist()),
        MadePoint(trial_id="b", weights=HALF, values=values[1].tolist()),
    ]
    (violation,) = summarise_run(write_run(tmp_path, TWO, points))["monotonicity"]["violations"]
    expected = bootstrap_mean((values[0] - values[1]) @ np.array([0.5, -0.5]), seed=0, level=0.95, resamples=200)
    assert {bound: violation[bound] for bound in ("value", "low", "high")} == pytest.approx(expected.as_dict())


def test_points_without_a_result_are_listed_with_status_and_cause(tmp_path: Path) -> None:
    points = [
        *without_exact(three_points()),
        MadePoint(trial_id="f", weights=HALF, status="failed", error="loss is nan at step 7"),
        MadePoint(trial_id="r", weights=HALF, status="running"),
        MadePoint(trial_id="e", weights=HALF, status="finished"),
    ]
    trials = ["f", "never", "r", "e", "c", "b", "a"]
    summary = summarise_run(write_run(tmp_path, TWO, points, trials=trials))
    assert [point["trial_id"] for point in summary["points"]] == trials
    failed, never, running, unevaluated, *_ = summary["points"]
    assert (failed["status"], failed["error"]) == ("failed", "loss is nan at step 7")
    assert failed["weights"] == {"vivid": 0.5, "brief": 0.5}
    assert (never["status"], never["weights"], never["objectives"]) == ("missing", None, None)
    assert running["dominated"] is None
    assert (unevaluated["status"], unevaluated["objectives"]) == ("finished", None)
    assert summary["counts"] == {
        "points": 7,
        "finished": 4,
        "trained": 0,
        "failed": 1,
        "running": 1,
        "pending": 0,
        "missing": 1,
        "evaluated": 3,
    }
    assert summary["hypervolume"]["value"] == pytest.approx(5.89)


def test_only_finished_points_are_in_the_front(tmp_path: Path) -> None:
    """A point that is trained further and then fails keeps its older measurement: shown, but no part of the front."""
    stale = MadePoint(trial_id="s", weights=HALF, values=everywhere(9, 9), status="failed", error="worker was lost")
    summary = summarise_run(write_run(tmp_path, TWO, [*without_exact(three_points()), stale]))
    assert summary["points"][3]["objectives"]["vivid"]["value"] == 9
    assert summary["points"][3]["dominated"] is None
    assert summary["hypervolume"]["value"] == pytest.approx(5.89)


def test_run_without_a_finished_point_has_no_front(tmp_path: Path) -> None:
    summary = summarise_run(write_run(tmp_path, TWO, [], trials=["a"]))
    assert (summary["hypervolume"], summary["exact"], summary["monotonicity"]) == (None, None, None)
    assert (summary["samples"], summary["num_prompts"], summary["counts"]["missing"]) == ([], 0, 1)


def test_points_outside_the_sweep_are_named_but_not_in_the_front(tmp_path: Path) -> None:
    better = MadePoint(trial_id="old", weights=HALF, values=everywhere(9, 9), error="")
    summary = summarise_run(write_run(tmp_path, TWO, [*without_exact(three_points()), better], trials=["a", "b", "c"]))
    spent = {"training_device_seconds": 10.0, "evaluation_device_seconds": 2.5}
    assert summary["other_points"] == [{"trial_id": "old", "status": "finished", **spent, "error": None}]
    assert summary["hypervolume"]["value"] == pytest.approx(5.89)


def test_front_uses_the_prompts_that_all_points_share(tmp_path: Path) -> None:
    """The third and fourth prompt of `a` would make it (52, 51) on average; `c` was not measured there."""
    points = [
        MadePoint(trial_id="a", weights=VIVID, values=[[4, 1], [4, 1], [100, 100], [100, 100]]),
        MadePoint(trial_id="c", weights=BRIEF, values=[[1, 4], [1, 4]]),
    ]
    summary = summarise_run(write_run(tmp_path, TWO, points))
    assert summary["num_prompts"] == 2
    assert summary["hypervolume"]["hv_ref_point"] == pytest.approx({"vivid": 0.7, "brief": 0.7})
    assert [point["dominated"] for point in summary["points"]] == [False, False]


def test_samples_are_one_response_of_every_point_to_the_same_three_prompts(tmp_path: Path) -> None:
    samples = summarise_run(write_run(tmp_path, TWO, three_points()))["samples"]
    assert [sample["prompt"] for sample in samples] == ["prompt 0", "prompt 1", "prompt 2"]
    assert samples[2]["responses"] == [
        {"trial_id": "a", "response": "answer of a"},
        {"trial_id": "b", "response": "answer of b"},
        {"trial_id": "c", "response": "answer of c"},
    ]


def test_long_responses_are_shortened(tmp_path: Path) -> None:
    point = MadePoint(trial_id="a", weights=VIVID, values=everywhere(1, 1), responses=["x" * 5000] * 4)
    response = summarise_run(write_run(tmp_path, TWO, [point]))["samples"][0]["responses"][0]["response"]
    assert response == "x" * 2000 + "…"


def test_objectives_say_unit_direction_and_who_scores_them(tmp_path: Path) -> None:
    raw = TWO.model_dump(mode="json")
    raw["objectives"][0] |= {"reward": None, "unit": 2.0}
    raw["objectives"][1] |= {"direction": "minimize"}
    summary = summarise_run(write_run(tmp_path, parse_config(raw), []))
    assert summary["objectives"] == [
        {"name": "vivid", "unit": 2.0, "normalize": "none", "direction": "maximize", "self_scored": True},
        {"name": "brief", "unit": 1.0, "normalize": "none", "direction": "minimize", "self_scored": False},
    ]
    assert (summary["name"], summary["level"], summary["config_digest"]) == ("small", 0.95, "0123456789abcdef")


def test_a_fitted_unit_is_the_one_that_points_were_measured_in(tmp_path: Path) -> None:
    point = MadePoint(trial_id="a", weights=VIVID, values=everywhere(1, 1), units={"vivid": 1.0, "brief": 3.5})
    raw = TWO.model_dump(mode="json")
    raw["objectives"][1] |= {"normalize": "std"}
    found = summarise_run(write_run(tmp_path, parse_config(raw), [point]))["objectives"][1]
    assert (found["unit"], found["normalize"]) == (3.5, "std")


def test_stages_stand_in_the_order_of_the_pipeline(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, [])
    stage = {"seconds": 1.0, "device_seconds": 0.0, "skipped": False}
    write_json(run_dir / "stages.json", dict.fromkeys(("sweep", "annotate", "new", "prepare"), stage))
    assert list(summarise_run(run_dir)["stages"]) == ["prepare", "annotate", "sweep", "new"]


def test_summary_is_strict_json_whatever_the_error_messages_hold(tmp_path: Path) -> None:
    """A file name that is no UTF-8 brings lone surrogates into a message."""
    failed = MadePoint(trial_id="f", weights=HALF, status="failed", error="no file caf\udce9.jsonl")
    summary = summarise_run(write_run(tmp_path, TWO, [failed]))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["points"][0]["error"] == "no file caf?.jsonl"


@pytest.mark.parametrize("name", ["", "nowhere"])
@pytest.mark.parametrize("read", [summarise_run, read_manifest])
def test_folder_that_is_no_run(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    (problem,) = caught.value.problems
    assert problem.code == "MS-301"
    assert all((problem.got, problem.wanted, problem.remedy))


def test_all_damaged_files_are_named_together(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, three_points())
    (point_dir(run_dir, "a") / "point.json").write_text('{"spec": {', encoding="utf-8")
    (point_dir(run_dir, "b") / "evaluation-00ff" / "prompts.parquet").write_bytes(b"PAR1")
    (point_dir(run_dir, "c") / "evaluation-00ff" / "samples.parquet").unlink()
    (run_dir / "stages.json").write_text("[]", encoding="utf-8")
    assert sorted(problems_of(run_dir)) == [
        ("MS-302", "evaluation-00ff"),
        ("MS-302", "evaluation-00ff"),
        ("MS-302", "point.json"),
        ("MS-302", "stages.json"),
    ]


def test_one_bit_of_a_measurement_is_enough(tmp_path: Path) -> None:
    """Parquet has no checksum of its own by default: without the manifest the value would be another one, silently."""
    run_dir = write_run(tmp_path, TWO, three_points())
    path = point_dir(run_dir, "b") / "evaluation-00ff" / "prompts.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0x01
    path.write_bytes(content)
    assert problems_of(run_dir) == [("MS-302", "evaluation-00ff")]


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"config": {"name": "x"}, "config_digest": "", "versions": {}, "created_at": "", "trials": []}'],
)
def test_damaged_run_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    assert problems_of(tmp_path) == [("MS-302", "run.json")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"value": 4.0', '"value": NaN'),
        ('"value": 4.0', '"value": "high"'),
        ('"j_w"', '"j_v"'),
        ('"primary": 0', '"primary": 7'),
        ('"status": "finished"', '"status": "done"'),
    ],
)
def test_point_that_says_nonsense(tmp_path: Path, before: str, after: str) -> None:
    run_dir = write_run(tmp_path, TWO, three_points())
    path = point_dir(run_dir, "a") / "point.json"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    assert problems_of(run_dir) == [("MS-302", "point.json")]


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt_number": [0], "vivid": [float("nan")], "brief": [1.0]},
        {"prompt_number": [0], "vivid": [1.0], "brief": pyarrow.array([None], type=pyarrow.float64())},
        {"prompt_number": [0], "vivid": [1.0]},
        {"prompt_number": pyarrow.array([], type=pyarrow.int64()), "vivid": [], "brief": []},
    ],
    ids=["nan", "null", "missing column", "no rows"],
)
def test_evaluation_that_is_not_finite_or_not_whole(tmp_path: Path, columns: dict[str, object]) -> None:
    run_dir = write_run(tmp_path, TWO, three_points())
    path = point_dir(run_dir, "b") / "evaluation-00ff" / "prompts.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    (path.parent / MANIFEST).unlink()
    assert problems_of(run_dir) == [("MS-302", "prompts.parquet")]


def test_points_measured_on_different_prompts_cannot_be_compared(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, three_points())
    path = point_dir(run_dir, "b") / "evaluation-00ff" / "prompts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt_number": [99], "vivid": [1.0], "brief": [1.0]}), path)
    (path.parent / MANIFEST).unlink()
    assert problems_of(run_dir) == [("MS-303", tmp_path.name)]


def test_summary_needs_neither_torch_nor_ray_nor_plotly() -> None:
    heavy = ["torch", "transformers", "ray", "deepspeed", "peft", "datasets", "pandas", "plotly", "jinja2"]
    script = f"import sys; import modpo.analysis.front; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
