"""Annotated pairs and texts as batches of tensors, chosen by row index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from modpo.artifacts import read_json
from modpo.core.batch import PairLogps, PairRewards, PreferenceBatch
from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.data.pair_table import PairTable, open_margin_rewards, open_pair_table
from modpo.data.prepared import ResponseText


@dataclass(frozen=True)
class AnnotatedPairs:
    """The pairs that a point trains on, with their annotation: mapped, so that a batch touches its own rows only.

    Attributes:
        table: every pair of the sweep, with its reference log-probabilities.
        rows: (R,) those rows of the table that are trained on.
        margin_rewards: (P, 2) raw margin rewards of all pairs for each objective, float64; None where they are 0.
    """

    table: PairTable
    rows: NDArray[np.int64]
    margin_rewards: tuple[NDArray[np.float64] | None, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_tokens(self) -> list[int]:
        """Tokens that each pair takes in a row."""
        tokens: list[int] = self.table.records["lengths"][self.rows].sum(axis=1).tolist()
        return tokens

    def response_lengths(self, rows: Sequence[int]) -> NDArray[np.int32]:
        """(B, 2) tokens of chosen and rejected."""
        lengths: NDArray[np.int32] = self.table.records["lengths"][self.rows[np.asarray(rows)], 1:]
        return lengths

    def not_finite(self) -> NDArray[np.int64]:
        """Rows with a reward or a reference log-probability that is no finite number."""
        numbers = [self.table.records["reference_logps"], *(each for each in self.margin_rewards if each is not None)]
        bad = np.zeros(len(self.rows), dtype=bool)
        for values in numbers:
            bad |= ~np.isfinite(values[self.rows]).all(axis=-1)
        return np.flatnonzero(bad)

    def batch(self, rows: Sequence[int], device: torch.device) -> PreferenceBatch:
        index = self.rows[np.asarray(rows)]
        logps = torch.from_numpy(self.table.records["reference_logps"][index]).to(device)
        return PreferenceBatch(
            tree_batch(self.table.trees(index), share_prompts=True).to(device),
            PairLogps(logps[:, 0], logps[:, 1]),
            self.rewards(rows, device),
        )

    def rewards(self, rows: Sequence[int], device: torch.device) -> PairRewards:
        """Raw margin rewards of these pairs."""
        index = self.rows[np.asarray(rows)]
        rewards = np.zeros((len(index), 2, len(self.margin_rewards)))
        for column, values in enumerate(self.margin_rewards):
            if values is not None:
                rewards[:, :, column] = values[index]
        on_device = torch.from_numpy(rewards).to(device)
        return PairRewards(on_device[:, 0], on_device[:, 1])


def pair_ids(reference: Path, rows: NDArray[np.int64]) -> list[str]:
    """What the pairs of these rows of the table are called in the run's artefacts."""
    column = pyarrow.parquet.read_table(reference / "table.parquet", columns=["pair_id"])["pair_id"]
    names: list[str] = column.take(pyarrow.array(rows)).to_pylist()
    return names


def read_units(rewards: Path) -> dict[str, float]:
    """Size of one unit of each objective's raw reward, as the annotation fixed it."""
    units: dict[str, float] = read_json(rewards / "units.json")
    return units


def read_measured_units(rewards: Path) -> dict[str, float]:
    """The same of what scores new responses; annotations of earlier versions make no difference."""
    path = rewards / "measured_units.json"
    units: dict[str, float] = read_json(path) if path.exists() else read_units(rewards)
    return units


def read_annotated(
    reference: Path, rewards: Path | None, *, sources: Sequence[str], weights: Mapping[str, float]
) -> AnnotatedPairs:
    """Maps the training pairs of a point with their annotation.

    Args:
        reference: the artefact with the pairs and their reference log-probabilities.
        rewards: that with the rewards, or None for plain DPO in declared units, which no reward enters.
        sources: objectives whose pairs are trained on; of two that compare the same responses one is kept.
        weights: of all objectives, in their order. The rewards of those without weight are not looked at, and are 0.

    Raises:
        InternalError: the two are not of the same pairs.
    """
    table = open_pair_table(reference)
    margin_rewards = tuple(
        open_margin_rewards(rewards, name, num_pairs=len(table)) if rewards is not None and weight > 0 else None
        for name, weight in weights.items()
    )
    return AnnotatedPairs(table, table.training_rows(sources), margin_rewards)


def text_batch(texts: Sequence[ResponseText], rows: Sequence[int], device: torch.device) -> TreeBatch:
    """Prompts with one response each, for supervised fine-tuning."""
    chosen = [texts[row] for row in rows]
    return tree_batch([Tree(text.prompt_ids, (text.response_ids,)) for text in chosen], share_prompts=True).to(device)
