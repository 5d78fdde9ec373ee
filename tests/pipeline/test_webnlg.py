"""The shipped sweep over five human scores, on the real file: a few steps of it, from reading to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modpo.annotate import reward_columns
from modpo.data.prepared import read_columns, read_pairs
from modpo.rewards.rules import prompt_recall
from tests.pipeline.conftest import BUSY_TIMEOUT_S, FinishedRun, Shell

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]

DIMENSIONS = {
    "coverage": "DataCoverage",
    "relevance": "Relevance",
    "correctness": "Correctness",
    "structure": "TextStructure",
    "fluency": "Fluency",
}
LEAST_GAP = 50
FEW = [
    *(f"objectives.{name}.pairs.scored.max_pairs_per_prompt=1" for name in DIMENSIONS),
    *(f"objectives.{name}.pairs.scored.min_gap={LEAST_GAP}" for name in DIMENSIONS),
    *("objectives.fluency.reward.max_steps=4", "sft.max_steps=8", "training.max_steps=4"),
    *("evaluation.num_prompts=4", "evaluation.samples_per_prompt=2", "evaluation.max_new_tokens=24"),
]


@pytest.fixture(scope="module")
def published(repository: Path) -> Path:
    path = repository.parent / "shared" / "data" / "webnlg2020_en.json"
    if not path.is_file():
        pytest.skip(f"no published data in {path}")
    return path


@pytest.fixture(scope="module")
def swept(
    published: Path, shared_models: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRun:
    shell = Shell(tmp_path_factory.mktemp("webnlg"), timeout_s=BUSY_TIMEOUT_S)
    (shell.folder / "data").symlink_to(published.parent)
    config = repository / "ray_jobs" / "configs" / "webnlg5.yaml"
    changes = [f"model.name_or_path={shared_models / 'tinystories656K'}", *FEW]
    done = shell.modpo("run", config, *(part for change in changes for part in ("--set", change)))
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(shell, {}, config, shell.folder / "runs" / "webnlg5", done.stdout + done.stderr)


def test_every_point_has_five_values_and_a_primary_with_weight(swept: FinishedRun) -> None:
    points = swept.summary["points"]
    assert len(points) == 9 and {point["status"] for point in points} == {"finished"}
    for point in points:
        assert point["objectives"].keys() == set(DIMENSIONS)
        assert point["weights"][point["primary"]] == max(point["weights"].values())
        assert sum(point["weights"].values()) == pytest.approx(1)
        assert all(np.isfinite(estimate["value"]) for estimate in point["objectives"].values())
        assert point["pair_accuracy"].keys() == set(DIMENSIONS)


def test_pairs_and_rewards_are_those_of_the_human_scores(swept: FinishedRun, published: Path) -> None:
    """Joined by the texts: the better score is chosen, by more than 50 points, and correctness is the score itself."""
    rows = json.loads(published.read_text(encoding="utf-8"))
    scores: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in rows:
        scores.setdefault((row["prompt"], row["response"]), []).append(row["scores"])
    (prepared,) = (swept.path / "artifacts").glob("prepared-*")
    (rewards,) = (swept.path / "artifacts").glob("rewards-*")
    pairs = read_pairs(prepared)
    columns = tuple(column for name in DIMENSIONS for column in reward_columns(name))
    stored = read_columns(rewards, [pair.pair_id for pair in pairs], columns)
    assert np.isfinite(list(stored.values())).all() and {pair.objective for pair in pairs} == set(DIMENSIONS)
    for row, pair in enumerate(pairs):
        chosen, rejected = (scores[pair.prompt, response] for response in (pair.chosen, pair.rejected))
        dimension = DIMENSIONS[pair.objective]
        assert max(one[dimension] - other[dimension] for one in chosen for other in rejected) > LEAST_GAP
        assert stored["correctness_chosen"][row] in [found["Correctness"] for found in chosen]
        assert stored["coverage_rejected"][row] == prompt_recall([pair.prompt], [pair.rejected])[0]


def test_every_other_reward_differs_between_the_two_sides(swept: FinishedRun) -> None:
    (rewards,) = (swept.path / "artifacts").glob("rewards-*")
    units = json.loads((rewards / "units.json").read_text(encoding="utf-8"))
    assert units.keys() == set(DIMENSIONS) and all(unit > 0 for unit in units.values())
    assert 10 < units["correctness"] < 60, "points out of a hundred"
    assert 0.05 < units["coverage"] < 0.5, "a share"
