"""Annotated pairs as tensors: every number beside its own pair, side and objective."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray

from modpo.core.batch import IGNORED_LABEL, PreferenceBatch
from modpo.core.trees import Tree, tree_batch
from modpo.data.pair_table import write_margin_rewards, write_pair_table
from modpo.data.prepared import ResponseText
from modpo.errors import InternalError
from modpo.training.batches import AnnotatedPairs, read_annotated, text_batch

CPU = torch.device("cpu")
NAMES = ("vivid", "brief", "safe")
NO = IGNORED_LABEL
# Values say where they belong: pair 1, 2, 3 in the units, chosen 0.1 and rejected 0.2, the objective in the tens.
PAIRS = [("p1", "vivid", "train"), ("p2", "brief", "train"), ("p3", "vivid", "train"), ("p4", "vivid", "eval")]

Row = dict[str, Any]


def prepared_rows() -> list[Row]:
    return [
        {
            "pair_id": pair_id,
            "objective": objective,
            "split": split,
            "prompt": json.dumps("Hi"),
            "chosen": "c",
            "rejected": "r",
            "prompt_ids": [10 + number],
            "chosen_ids": [20 + number, 2],
            "rejected_ids": [30 + number, 31, 2],
        }
        for number, (pair_id, objective, split) in enumerate(PAIRS, start=1)
    ]


def write_artefacts(folder: Path, rows: list[Row], logps: NDArray[np.float64], rewards: NDArray[np.float64]) -> None:
    """The artefacts of these pairs, with reference log-probabilities (P, 2) and rewards (K, P, 2)."""
    for name in ("prepared", "reference", "rewards"):
        (folder / name).mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "prepared" / "pairs.parquet")
    write_pair_table(folder / "reference", folder / "prepared", logps)
    for name, values in zip(NAMES, rewards, strict=True):
        write_margin_rewards(folder / "rewards", name, values)


def numbered(num_pairs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reference log-probabilities and rewards that say where they belong."""
    sides = np.arange(1, num_pairs + 1)[:, None] + np.array([0.1, 0.2])
    return -sides, np.stack([10.0 * tens + sides for tens in (1, 2, 3)])


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    write_artefacts(tmp_path, prepared_rows(), *numbered(len(PAIRS)))
    return tmp_path


WEIGHTS = dict.fromkeys(NAMES, 1 / len(NAMES))


def read(
    artefacts: Path, *sources: str, with_rewards: bool = True, weights: Mapping[str, float] = WEIGHTS
) -> AnnotatedPairs:
    return read_annotated(
        artefacts / "reference",
        artefacts / "rewards" if with_rewards else None,
        sources=sources or ["vivid"],
        weights=weights,
    )


def test_training_pairs_of_the_primary_objective_only(artefacts: Path) -> None:
    assert read(artefacts).rows.tolist() == [0, 2]
    assert read(artefacts, "brief").rows.tolist() == [1]


def test_every_number_stands_beside_its_pair_side_and_objective(artefacts: Path) -> None:
    batch = read(artefacts).batch([1, 0], CPU)
    assert batch.num_pairs == 2
    assert batch.reference.chosen.tolist() == [-3.1, -1.1]
    assert batch.reference.rejected.tolist() == [-3.2, -1.2]
    assert batch.margin_rewards.chosen.tolist() == [[13.1, 23.1, 33.1], [11.1, 21.1, 31.1]]
    assert batch.margin_rewards.rejected.tolist() == [[13.2, 23.2, 33.2], [11.2, 21.2, 31.2]]
    assert batch.reference.chosen.dtype == batch.margin_rewards.chosen.dtype == torch.float64


def test_lengths_are_in_tokens(artefacts: Path) -> None:
    data = read(artefacts)
    assert data.num_tokens == [6, 6]
    assert data.response_lengths([1]).tolist() == [[2, 3]]


def test_order_of_the_objectives_is_the_callers(artefacts: Path) -> None:
    turned = read(artefacts, weights=dict.fromkeys(NAMES[::-1], 1 / 3))
    assert turned.batch([0], CPU).margin_rewards.chosen.tolist() == [[31.1, 21.1, 11.1]]


def test_rewards_without_weight_are_not_looked_at(artefacts: Path) -> None:
    """They may not even be known on these pairs: NaN there must not reach the loss."""
    write_margin_rewards(artefacts / "rewards", NAMES[1], np.full((len(PAIRS), 2), math.nan))
    weights = {NAMES[0]: 0.5, NAMES[1]: 0.0, NAMES[2]: 0.5}
    assert read(artefacts, weights=weights).batch([0], CPU).margin_rewards.chosen.tolist() == [[11.1, 0.0, 31.1]]


def test_a_regression_trains_on_each_comparison_once(tmp_path: Path) -> None:
    """p6 compares the responses of p1 for another objective, and the other way round; p7 is a second draw of p1."""
    rows = prepared_rows()
    first = rows[0]
    swapped = {"chosen_ids": first["rejected_ids"], "rejected_ids": first["chosen_ids"]}
    rows += [{**first, **swapped, "pair_id": "p6", "objective": "brief"}, {**first, "pair_id": "p7"}]
    write_artefacts(tmp_path, rows, *numbered(len(rows)))
    chosen = [rows[row]["pair_id"] for row in read(tmp_path, "vivid", "brief").rows]
    assert chosen == ["p1", "p3", "p7", "p2"]


def test_a_row_has_each_prompt_once_with_chosen_and_rejected_in_turn(artefacts: Path) -> None:
    trees = read(artefacts).batch([0, 1], CPU).trees
    assert trees.input_ids.tolist() == [[11, 21, 2, 31, 31, 2, 13, 23, 2, 33, 31, 2]]
    assert trees.position_ids.tolist() == [[0, 1, 2, 1, 2, 3, 0, 1, 2, 1, 2, 3]]
    assert trees.targets.tolist() == [21, 2, 31, 31, 2, 23, 2, 33, 31, 2]
    assert trees.owners.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert trees.predictors.tolist() == [0, 1, 0, 3, 4, 6, 7, 6, 9, 10]


def test_pairs_of_one_prompt_share_it(artefacts: Path) -> None:
    trees = read(artefacts).batch([0, 0], CPU).trees
    assert trees.input_ids.tolist() == [[11, 21, 2, 31, 31, 2, 21, 2, 31, 31, 2]]
    assert trees.num_responses == 4


def test_plain_dpo_has_no_margin_and_needs_no_rewards(artefacts: Path) -> None:
    batch = read(artefacts, with_rewards=False).batch([0, 1], CPU)
    assert torch.equal(batch.margin_rewards.gap, torch.zeros(2, 3, dtype=torch.float64))
    assert batch.reference.chosen.tolist() == [-1.1, -3.1]


def test_rewards_of_other_pairs_are_refused(artefacts: Path) -> None:
    write_margin_rewards(artefacts / "rewards", "brief", np.zeros((3, 2)))
    with pytest.raises(InternalError) as caught:
        read(artefacts)
    (problem,) = caught.value.problems
    assert (problem.code, problem.got, problem.wanted) == ("MS-603", "3 entries in rewards_brief.npy", "4 entries")
    assert problem.where == str(artefacts / "rewards")


def test_texts_to_imitate() -> None:
    texts = [ResponseText((5,), (6, 2)), ResponseText((7, 8), (9, 9, 2))]
    batch = text_batch(texts, [1, 0], CPU)
    assert batch.input_ids.tolist() == [[7, 8, 9, 9, 2, 5, 6, 2]]
    assert batch.targets.tolist() == [9, 9, 2, 6, 2]


@pytest.fixture(scope="module")
def random_artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    rows = random_rows(random.Random(5))
    generator = np.random.default_rng(5)
    logps, rewards = generator.normal(size=(len(rows), 2)), generator.normal(size=(3, len(rows), 2))
    rewards[2, ::3] = math.nan
    write_artefacts(folder, rows, logps, rewards)
    annotation = {row["pair_id"]: [*logps[place], *rewards[:, place].ravel()] for place, row in enumerate(rows)}
    (folder / "annotation.json").write_text(json.dumps(annotation), encoding="utf-8")
    return folder


def random_rows(draw: random.Random) -> list[Row]:
    """400 pairs of few responses to few prompts, as text or chat, so that objectives often compare the same two."""
    prompts = [tuple(draw.choices(range(50_000), k=draw.randint(1, 9))) for _ in range(12)]
    responses = [tuple(draw.choices(range(50_000), k=draw.randint(1, 9))) for _ in range(4)]
    rows = []
    for number in range(400):
        place = draw.randrange(len(prompts))
        text = f"text {place}" if place % 2 else [["user", f"turn {place}"]]
        chosen, rejected = draw.sample(responses, 2)
        rows.append(
            {
                "pair_id": f"{draw.getrandbits(64):016x}-{number}",
                "objective": draw.choice(NAMES),
                "split": "eval" if place < 2 else "train",
                "prompt": json.dumps(text),
                "chosen": str(chosen),
                "rejected": str(rejected),
                "prompt_ids": prompts[place],
                "chosen_ids": chosen,
                "rejected_ids": rejected,
            }
        )
    return rows


def read_text(folder: Path, sources: Sequence[str], *, distinct: bool = True) -> list[Row]:
    """Training pairs of these objectives; a comparison is that of the first objective that has it."""
    stored = pyarrow.parquet.read_table(folder / "prepared" / "pairs.parquet").to_pylist()
    rows = [row for name in sources for row in stored if (row["objective"], row["split"]) == (name, "train")]
    owners: dict[str, str] = {}
    for row in rows:
        row["comparison"] = repr([row["prompt_ids"], sorted([row["chosen_ids"], row["rejected_ids"]])])
        owners.setdefault(row["comparison"], row["objective"])
    return [row for row in rows if not distinct or owners[row["comparison"]] == row["objective"]]


@pytest.mark.parametrize("sources", [s for count in (1, 2, 3) for s in itertools.permutations(NAMES, count)])
@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (0.5, 0.5, 0.0), None], ids=str)
def test_batches_have_the_bits_that_joining_all_text_by_pair_id_gives(
    random_artefacts: Path, sources: tuple[str, ...], weights: tuple[float, ...] | None
) -> None:
    texts = read_text(random_artefacts, sources)
    by_objective = dict(zip(NAMES, weights or (1.0, 0.0, 0.0), strict=True))
    data = read(random_artefacts, *sources, with_rewards=weights is not None, weights=by_objective)
    assert len(data) == len(texts)
    assert data.num_tokens == [
        sum(len(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")) for row in texts
    ]
    assert len(sources) == 1 or len(texts) < len(read_text(random_artefacts, sources, distinct=False))
    annotation = json.loads((random_artefacts / "annotation.json").read_text(encoding="utf-8"))
    order = random.Random(1).sample(range(len(texts)), len(texts))
    for start in range(0, len(order), 7):
        rows = order[start : start + 7]
        numbers = np.array([annotation[texts[row]["pair_id"]] for row in rows])
        rewards = numbers[:, 2:].reshape(-1, 3, 2)
        for column in range(3):
            if weights is None or not weights[column]:
                rewards[:, column] = 0.0
        assert_same_bits(data.batch(rows, CPU), [texts[row] for row in rows], numbers[:, :2], rewards)


def assert_same_bits(
    batch: PreferenceBatch, texts: list[Row], logps: NDArray[np.float64], rewards: NDArray[np.float64]
) -> None:
    """A batch against its pairs as text, their log-probabilities (B, 2) and their rewards (B, K, 2)."""
    trees = [Tree(tuple(row["prompt_ids"]), (tuple(row["chosen_ids"]), tuple(row["rejected_ids"]))) for row in texts]
    expected = tree_batch(trees, share_prompts=True)
    assert (batch.trees.layout, batch.trees.num_responses) == (expected.layout, expected.num_responses)
    for name in ("input_ids", "position_ids", "predictors", "targets", "owners"):
        assert torch.equal(getattr(batch.trees, name), getattr(expected, name))
        assert getattr(batch.trees, name).dtype == getattr(expected, name).dtype
    for side, name in enumerate(("chosen", "rejected")):
        np.testing.assert_array_equal(getattr(batch.reference, name).numpy(), logps[:, side])
        np.testing.assert_array_equal(getattr(batch.margin_rewards, name).numpy(), rewards[:, :, side])
