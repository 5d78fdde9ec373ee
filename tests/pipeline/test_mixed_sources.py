"""Three and five objectives with rewards from every source in one sweep, through the command line and Ray."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import modpo
from modpo.annotate import reward_columns
from modpo.data.prepared import read_columns, read_pairs
from tests.pipeline.conftest import BUSY_TIMEOUT_S, FinishedRun, Shell
from tests.pipeline.mixed_sources import PRIMARIES, WEIGHTS, completions, log_ratios, mixed_sweep, sources

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]

# A model alone and unpadded against batches of packed rows, in float32.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[3, 5], ids=["three", "five"])
def mixed(request: pytest.FixtureRequest, demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    shell = Shell(tmp_path_factory.mktemp("mixed"), timeout_s=BUSY_TIMEOUT_S)
    raw = mixed_sweep(demo_world, shell.folder, request.param)
    config = shell.sweep_file(raw)
    done = shell.modpo("run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(shell, raw, config, shell.folder / "runs" / raw["name"], done.stdout + done.stderr)


@pytest.fixture
def names(mixed: FinishedRun) -> list[str]:
    return [objective["name"] for objective in mixed.raw["objectives"]]


def test_every_point_is_finished_at_its_own_weights(mixed: FinishedRun, names: list[str]) -> None:
    points = mixed.summary["points"]
    wanted = WEIGHTS[len(names)]
    assert [point["status"] for point in points] == ["finished"] * len(wanted)
    assert [point["weights"] for point in points] == [dict.fromkeys(names, 0.0) | weights for weights in wanted]
    for point in points:
        assert min(point["weights"].values()) >= 0 and math.fsum(point["weights"].values()) == pytest.approx(1)


def test_an_objective_with_weight_and_pairs_labels_each_point(mixed: FinishedRun, names: list[str]) -> None:
    points = mixed.summary["points"]
    assert [point["primary"] for point in points] == PRIMARIES[len(names)]
    assert all(point["weights"][point["primary"]] > 0 for point in points)


def test_every_reward_column_is_what_its_source_says(mixed: FinishedRun, names: list[str]) -> None:
    (prepared,) = (mixed.path / "artifacts").glob("prepared-*")
    (rewards,) = (mixed.path / "artifacts").glob("rewards-*")
    pairs = read_pairs(prepared)
    columns = [column for name in names for column in reward_columns(name)]
    assert set(pyarrow.parquet.read_table(rewards / "table.parquet").column_names) == {"pair_id", *columns}
    stored = read_columns(rewards, [pair.pair_id for pair in pairs], tuple(columns))
    values = np.array(list(stored.values()))
    assert values.shape == (2 * len(names), len(pairs)) and np.isfinite(values).all()
    assert (values.std(axis=1) > 0).all(), "a reward that never differs says nothing"
    for name, reward in sources(mixed).items():
        for column, side in zip(reward_columns(name), ("chosen", "rejected"), strict=True):
            assert np.abs(stored[column] - reward(completions(pairs, side))).max() <= TOLERANCE, name


def test_the_front_has_a_value_of_every_objective(mixed: FinishedRun, names: list[str]) -> None:
    front = modpo.load_run(mixed.path).front()
    values = front[[f"objectives/{name}/value" for name in names]].to_numpy()
    assert len(front) >= 1 and np.isfinite(values).all()
    for point in mixed.summary["points"]:
        assert point["objectives"].keys() == set(names)
        for estimate in (*point["objectives"].values(), point["kl"], point["j_w"]):
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        weighted = sum(point["weights"][name] * point["objectives"][name]["value"] for name in names)
        assert point["j_w"]["value"] == pytest.approx(weighted - point["beta"] * point["kl"]["value"], abs=1e-9)


def test_only_those_that_a_trained_model_scores_are_marked(mixed: FinishedRun, names: list[str]) -> None:
    """New texts have no numbers beside them, so `counted` is measured by its own vertex, as `brief` is."""
    own = [name for name in names if name in ("brief", "counted")]
    assert all(point["self_scored"] == own for point in mixed.summary["points"])


def test_units_are_fitted_where_that_is_asked_for(mixed: FinishedRun, names: list[str]) -> None:
    (prepared,) = (mixed.path / "artifacts").glob("prepared-*")
    pairs, vertex = read_pairs(prepared), log_ratios(mixed.path, "counted")
    gaps = vertex(completions(pairs, "chosen")) - vertex(completions(pairs, "rejected"))
    for point in mixed.summary["points"]:
        # Measured by its vertex, `counted` has a unit of that.
        assert point["units"]["counted"] == pytest.approx(np.sqrt(np.mean(gaps**2) / 2), rel=1e-3)
        fitted = {name for name, unit in point["units"].items() if unit != 1}
        assert point["units"].keys() == set(names) and fitted == {"counted", "judged"}


def test_report_and_tables_have_every_objective(mixed: FinishedRun, names: list[str]) -> None:
    assert [objective["name"] for objective in mixed.summary["objectives"]] == names
    assert mixed.summary["hypervolume"]["value"] >= 0
    table = pyarrow.parquet.read_table(mixed.path / "report" / "points.parquet")
    for name in names:
        assert {f"weight_{name}", f"value_{name}", f"low_{name}", f"high_{name}"} <= set(table.column_names)
        assert np.isfinite(table[f"value_{name}"].to_numpy()).all()
    page = (mixed.path / "report" / "index.html").read_text(encoding="utf-8")
    (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page)
    panels = {
        name: sum(key.startswith("xaxis") for key in figure["layout"]) for name, figure in json.loads(figures).items()
    }
    assert panels == {"front": math.comb(len(names), 2), "kl": len(names)}
    titles = {
        axis["title"]["text"].split(" ")[0]
        for key, axis in json.loads(figures)["front"]["layout"].items()
        if "axis" in key
    }
    assert titles == set(names)
