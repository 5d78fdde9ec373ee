"""Annotated pairs and texts as batches of tensors, chosen by row index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modpo.artifacts import read_json
from modpo.core.batch import PairLogps, PairRewards, PreferenceBatch
from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.data.prepared import ResponseText, TokenisedPair, read_columns, read_pairs

LOGPS_COLUMNS = ("reference_chosen_logps", "reference_rejected_logps")


def reward_columns(objective: str) -> tuple[str, str]:
    """Names of an objective's columns in the rewards table."""
    return f"{objective}_chosen", f"{objective}_rejected"


@dataclass(frozen=True)
class AnnotatedPairs:
    """Pairs with their reference log-probabilities (R, 2) and raw margin rewards (R, 2, K), float64."""

    pairs: list[TokenisedPair]
    reference_logps: NDArray[np.float64]
    margin_rewards: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def num_tokens(self) -> list[int]:
        """Tokens that each pair takes in a row."""
        return [len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in self.pairs]

    def batch(self, rows: Sequence[int], device: torch.device) -> PreferenceBatch:
        pairs, index = [self.pairs[row] for row in rows], np.asarray(rows)
        trees = [Tree(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs]
        logps = torch.from_numpy(self.reference_logps[index]).to(device)
        rewards = torch.from_numpy(self.margin_rewards[index]).to(device)
        return PreferenceBatch(
            tree_batch(trees, share_prompts=True).to(device),
            PairLogps(logps[:, 0], logps[:, 1]),
            PairRewards(rewards[:, 0], rewards[:, 1]),
        )


def read_units(rewards: Path) -> dict[str, float]:
    """Size of one unit of each objective's raw reward, as the annotation fixed it."""
    units: dict[str, float] = read_json(rewards / "units.json")
    return units


def read_annotated(
    pairs_folder: Path,
    reference: Path,
    rewards: Path | None,
    *,
    sources: Sequence[str],
    weights: Mapping[str, float],
) -> AnnotatedPairs:
    """Training pairs joined with the annotation by pair_id.

    Args:
        rewards: the rewards table, or None for plain DPO in declared units, which no reward enters.
        sources: objectives whose pairs are trained on; of two that compare the same responses one is kept.
        weights: of all objectives, in their order. The rewards of those without weight are not looked at, and are 0.
    """
    pairs = _distinct([pair for name in sources for pair in read_pairs(pairs_folder, split="train", objective=name)])
    ids = [pair.pair_id for pair in pairs]
    logps = read_columns(reference, ids, LOGPS_COLUMNS)
    margin_rewards = np.zeros((len(pairs), 2, len(weights)))
    weighted = [column for column, weight in enumerate(weights.values()) if weight > 0]
    if rewards is not None:
        names = [reward_columns(list(weights)[column]) for column in weighted]
        values = read_columns(rewards, ids, tuple(name for both in names for name in both))
        for column, both in zip(weighted, names, strict=True):
            margin_rewards[:, :, column] = np.stack([values[name] for name in both], axis=-1)
    return AnnotatedPairs(pairs, np.stack([logps[c] for c in LOGPS_COLUMNS], axis=-1), margin_rewards)


def _distinct(pairs: list[TokenisedPair]) -> list[TokenisedPair]:
    """Each comparison once over all objectives; within one objective, equal pairs are separate draws and stay."""
    first_objective: dict[tuple[object, ...], str] = {}
    return [
        pair
        for pair in pairs
        if first_objective.setdefault((pair.prompt_ids, *sorted((pair.chosen_ids, pair.rejected_ids))), pair.objective)
        == pair.objective
    ]


def text_batch(texts: Sequence[ResponseText], rows: Sequence[int], device: torch.device) -> TreeBatch:
    """Prompts with one response each, for supervised fine-tuning."""
    chosen = [texts[row] for row in rows]
    return tree_batch([Tree(text.prompt_ids, (text.response_ids,)) for text in chosen], share_prompts=True).to(device)
