"""From prompts to a front through the command line: sampled, scored, labelled, trained; one reward model of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from modpo.data.demo.rewards import brief, vivid
from modpo.rewards.classifier import ClassifierSource, load_classifier
from tests.pipeline.conftest import FinishedRun, Shell, small_sweep

pytestmark = [pytest.mark.pipeline, pytest.mark.endurance]

STAGES = ["prepare", "sft", "reward_models", "label", "reference", "vertices", "annotate", "sweep", "report"]
NUM_PROMPTS = 16
RESPONSES = 3


def prompts_only(world: Path, folder: Path) -> dict[str, Any]:
    """Two objectives that only have reward functions, and one with pairs and a reward model that is trained on them."""
    lines = (world / "vivid.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = sorted({json.loads(line)["prompt"] for line in lines})[:NUM_PROMPTS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    raw = small_sweep(world, "prompts")
    for objective in raw["objectives"]:
        function = f"modpo.data.demo.rewards:{objective['name']}"
        objective |= {"pairs": None, "reward": {"type": "function", "function": function}, "normalize": "std"}
    learned = {"type": "trained", "max_steps": 4, "per_device_train_batch_size": 8, "template": "{prompt} {response}"}
    raw["objectives"].append({"name": "learned", "pairs": {"path": str(world / "brief.jsonl")}, "reward": learned})
    raw["label"] = {
        "prompts": {"path": str(folder / "prompts.jsonl")},
        "responses_per_prompt": RESPONSES,
        "max_new_tokens": 12,
    }
    raw["training"] |= {"loss_type": "soft", "max_steps": 4}
    weights = [{"vivid": 1.0}, {"vivid": 0.5, "learned": 0.5}, {"vivid": 0.2, "brief": 0.6, "learned": 0.2}]
    raw["sweep"] = {"weights": {"list": weights}}
    return raw


@pytest.fixture(scope="module")
def labelled(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`modpo label`, and nothing after it."""
    shell = Shell(tmp_path_factory.mktemp("prompts"))
    raw = prompts_only(demo_world, shell.folder)
    config = shell.sweep_file(raw)
    done = shell.modpo("label", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(shell, raw, config, shell.folder / "runs" / "prompts", done.stdout)


@pytest.fixture(scope="module")
def swept(labelled: FinishedRun) -> FinishedRun:
    """`modpo run` after it."""
    done = labelled.shell.modpo("run", labelled.config)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(labelled.shell, labelled.raw, labelled.config, labelled.path, done.stdout)


def artefact(run: FinishedRun, stage: str) -> Path:
    (folder,) = (run.path / "artifacts").glob(f"{stage}-*")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return found


def test_label_stops_after_the_pairs(labelled: FinishedRun) -> None:
    stages = json.loads((labelled.path / "stages.json").read_text(encoding="utf-8"))
    assert sorted(stages) == sorted(STAGES[:4])
    assert not list(labelled.path.glob("points/*"))


def test_what_was_made_is_counted_and_shown(labelled: FinishedRun) -> None:
    """Three responses to each of 16 prompts are at most 48 pairs for each of the two objectives without own pairs."""
    counts = json.loads((artefact(labelled, "labelled") / "label.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["prompts"], counts["responses"]) == (NUM_PROMPTS, NUM_PROMPTS * RESPONSES)
    assert counts["pairs vivid"] == counts["pairs brief"] == NUM_PROMPTS * RESPONSES - counts["identical"]
    for kind, count in counts.items():
        assert f"{kind}: {count}" in labelled.output


def test_made_pairs_stand_beside_the_given_ones(labelled: FinishedRun) -> None:
    pairs = rows(artefact(labelled, "labelled") / "pairs.parquet")
    given = rows(artefact(labelled, "prepared") / "pairs.parquet")
    assert [pair for pair in pairs if pair["objective"] == "learned"] == given
    assert {pair["objective"] for pair in pairs} == {"vivid", "brief", "learned"}
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs)


def test_samples_are_kept_with_the_rewards_that_their_texts_have(labelled: FinishedRun) -> None:
    samples = rows(artefact(labelled, "labelled") / "samples.parquet")
    prompts = [json.loads(row["prompt"]) for row in rows(artefact(labelled, "prepared") / "label_prompts.parquet")]
    for sample in samples:
        prompt = prompts[sample["prompt_number"]]
        assert sample["vivid"] == pytest.approx(vivid([prompt], [sample["response"]])[0])
        assert sample["brief"] == pytest.approx(brief([prompt], [sample["response"]])[0])


def test_no_prompt_is_on_both_sides(labelled: FinishedRun) -> None:
    sides: dict[str, set[str]] = {}
    for pair in rows(artefact(labelled, "labelled") / "pairs.parquet"):
        sides.setdefault(pair["prompt"], set()).add(pair["split"])
    assert all(len(found) == 1 for found in sides.values())


def test_the_reward_model_is_an_ordinary_classifier_with_held_out_accuracy(labelled: FinishedRun) -> None:
    folder = artefact(labelled, "reward_model")
    assert load_classifier(ClassifierSource(str(folder)), "cpu").model.config.num_labels == 1
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["objective"] == "learned" and 0 <= metrics["accuracy"]["value"] <= 1


def test_run_goes_on_from_the_pairs(swept: FinishedRun) -> None:
    stages = swept.summary["stages"]
    assert stages.keys() == set(STAGES)
    # No implicit reward is asked for, so there is no vertex to train either.
    assert [name for name in STAGES if stages[name]["skipped"]] == [*STAGES[:4], "vertices"]


def test_the_units_of_the_labels_are_those_of_loss_and_evaluation(swept: FinishedRun) -> None:
    fixed = json.loads((artefact(swept, "labelled") / "units.json").read_text(encoding="utf-8"))
    assert fixed["vivid"] != 1.0 and fixed["brief"] != 1.0
    for point in swept.summary["points"]:
        assert point["units"] == {**fixed, "learned": 1.0}
    assert swept.summary["meaning"]["rewards"]["vivid"]["unit"] == fixed["vivid"]


def test_the_front_says_who_labelled_each_point(swept: FinishedRun) -> None:
    points = swept.summary["points"]
    assert [point["primary"] for point in points] == ["vivid", "vivid", "brief"]
    assert all(point["status"] == "finished" and point["self_scored"] == [] for point in points)
    assert swept.summary["start"]["length"] > 0


def test_the_same_labels_again_from_another_number_of_workers(labelled: FinishedRun, tmp_path: Path) -> None:
    """Seeds follow from the run and the prompts: two slots share the prompts out, one has them all."""
    raw = labelled.raw | {"resources": {"max_concurrent": 1}}
    shell = Shell(tmp_path)
    done = shell.modpo("label", shell.sweep_file(raw))
    assert done.returncode == 0, done.stdout + done.stderr
    again = FinishedRun(shell, raw, tmp_path, tmp_path / "runs" / "prompts", done.stdout)
    first, second = (rows(artefact(run, "labelled") / "pairs.parquet") for run in (labelled, again))
    assert first == second
