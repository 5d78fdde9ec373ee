"""All pairs of a sweep as flat arrays on disk: written once, mapped by every trial, shared by those of one machine.

    pairs.npy                  one record a pair, in the order of pairs.parquet: see `RECORD`
    tokens.int32               their token ids, [prompt | chosen | rejected] of pair behind pair, little-endian
    objectives.json            the names that `RECORD` numbers
    rewards_<objective>.npy    (P, 2) raw rewards of chosen and rejected in the same order, in the rewards' own folder

Opening them reads nothing but the records: a process keeps in memory what it looks at, and no text.

Shapes: P pairs of the sweep, R of them chosen.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from modpo.artifacts import read_json, write_json
from modpo.core.trees import Tree
from modpo.errors import InternalError, Problem

RECORDS, TOKENS, OBJECTIVES = "pairs.npy", "tokens.int32", "objectives.json"
TOKEN_TYPE = np.dtype("<i4")
TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
BATCH_ROWS = 10_000

RECORD = np.dtype(
    [
        ("reference_logps", "<f8", 2),  # of chosen and rejected, in nats
        ("start", "<i8"),  # of its tokens
        ("lengths", "<i4", 3),  # of prompt, chosen and rejected, in tokens
        ("prompt", "<i4"),  # equal for pairs of one prompt
        ("comparison", "<i4"),  # equal for pairs of the same two responses to one prompt, whichever is the chosen one
        ("objective", "<i2"),  # number of its name in objectives.json
        ("held_out", "?"),
    ],
    align=True,
)


@dataclass(frozen=True)
class PairTable:
    """The mapped table.

    Attributes:
        objectives: names of those that have pairs, as the records number them.
        records: (P,) of `RECORD`.
        tokens: all token ids.
    """

    objectives: tuple[str, ...]
    records: NDArray[np.void]
    tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.records)

    def training_rows(self, sources: Sequence[str]) -> NDArray[np.int64]:
        """(R,) rows of these objectives' training pairs, objective by objective in the order given.

        Of two objectives that compare the same responses the first has the pair; within one objective, equal pairs are
        separate draws and stay.
        """
        objective, comparison = self.records["objective"], self.records["comparison"]
        owner = np.full(len(self), -1)
        parts = []
        for number in map(self.objectives.index, sources):
            rows = np.flatnonzero((objective == number) & ~self.records["held_out"])
            parts.append(rows[np.isin(owner[comparison[rows]], (-1, number))])
            owner[comparison[parts[-1]]] = number
        return np.concatenate(parts)

    def held_out_rows(self) -> NDArray[np.int64]:
        """(R,) rows of the pairs that no trial trains on, of every objective."""
        return np.flatnonzero(self.records["held_out"])

    def trees(self, rows: NDArray[np.int64]) -> list[Tree]:
        """The prompt of each of these pairs with its chosen and its rejected response."""
        records, trees = self.records[rows], []
        for start, (prompt, chosen, rejected) in zip(
            records["start"].tolist(), records["lengths"].tolist(), strict=True
        ):
            ids = tuple(self.tokens[start : start + prompt + chosen + rejected].tolist())
            middle = prompt + chosen
            trees.append(Tree(ids[:prompt], (ids[prompt:middle], ids[middle:])))
        return trees


def write_pair_table(folder: Path, prepared: Path, reference_logps_P2: NDArray[np.float64]) -> None:
    """Writes the table of all pairs of `prepared` into `folder`. No more than a batch of tokens is in memory.

    Args:
        reference_logps_P2: of chosen and rejected, in the order of the pairs.
    """
    # Each key gets the next number when it is first asked for.
    objectives: dict[str, int] = defaultdict(count().__next__)
    prompts: dict[bytes, int] = defaultdict(count().__next__)
    comparisons: dict[bytes, int] = defaultdict(count().__next__)
    parts = []
    columns = ["objective", "split", "prompt", *TOKEN_COLUMNS]
    with (folder / TOKENS).open("wb") as file, pyarrow.parquet.ParquetFile(prepared / "pairs.parquet") as stored:
        for batch in stored.iter_batches(BATCH_ROWS, columns=columns):
            lengths, tokens = _interleaved(batch)
            file.write(tokens.tobytes())
            records = np.zeros(len(batch), RECORD)
            records["lengths"] = lengths
            records["objective"] = [objectives[name] for name in batch["objective"].to_pylist()]
            records["held_out"] = [split == "eval" for split in batch["split"].to_pylist()]
            records["prompt"] = [prompts[_digest(text.encode())] for text in batch["prompt"].to_pylist()]
            records["comparison"] = [comparisons[key] for key in _comparison_keys(lengths, tokens)]
            parts.append(records)
    records = np.concatenate(parts)
    totals = records["lengths"].sum(axis=1, dtype=np.int64)
    records["start"] = np.cumsum(totals) - totals
    records["reference_logps"] = reference_logps_P2
    np.save(folder / RECORDS, records)
    write_json(folder / OBJECTIVES, list(objectives))


def open_pair_table(folder: Path) -> PairTable:
    """Maps the table.

    Raises:
        InternalError: its files do not belong together.
    """
    records = np.asarray(np.load(folder / RECORDS, mmap_mode="r"))
    tokens = np.asarray(np.memmap(folder / TOKENS, dtype=TOKEN_TYPE, mode="r"))
    _check_size(folder / TOKENS, len(tokens), wanted=int(records[-1]["start"] + records[-1]["lengths"].sum()))
    return PairTable(tuple(read_json(folder / OBJECTIVES)), records, tokens)


def write_margin_rewards(folder: Path, objective: str, rewards_P2: NDArray[np.float64]) -> None:
    """Writes an objective's raw rewards of chosen and rejected, in the order of the pairs."""
    np.save(_rewards_file(folder, objective), rewards_P2)


def open_margin_rewards(folder: Path, objective: str, *, num_pairs: int) -> NDArray[np.float64]:
    """Maps an objective's raw rewards (P, 2) of chosen and rejected.

    Raises:
        InternalError: they are not those of so many pairs.
    """
    path = _rewards_file(folder, objective)
    rewards_P2 = np.asarray(np.load(path, mmap_mode="r"))
    _check_size(path, len(rewards_P2), wanted=num_pairs)
    return rewards_P2


def _rewards_file(folder: Path, objective: str) -> Path:
    return folder / f"rewards_{objective}.npy"


def _interleaved(batch: pyarrow.RecordBatch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lengths (rows, 3) of the three parts of each pair, and their tokens [prompt | chosen | rejected] in one array."""
    parts = pyarrow.concat_arrays([batch[name] for name in TOKEN_COLUMNS])
    pair_by_pair = parts.take(pyarrow.array(np.arange(len(parts)).reshape(len(TOKEN_COLUMNS), -1).T.ravel()))
    lengths = pair_by_pair.value_lengths().to_numpy().reshape(-1, len(TOKEN_COLUMNS))
    return lengths, pair_by_pair.flatten().to_numpy().astype(TOKEN_TYPE)


def _comparison_keys(lengths: NDArray[np.int32], tokens: NDArray[np.int32]) -> Iterator[bytes]:
    borders = pairwise(accumulate(lengths.ravel().tolist(), initial=0))
    parts = (tokens[start:end].tobytes() for start, end in borders)
    for prompt, chosen, rejected in zip(parts, parts, parts, strict=True):
        yield _digest(prompt, *sorted((chosen, rejected)))


def _digest(*parts: bytes) -> bytes:
    """Of parts that are equal one by one, not only joined."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _check_size(path: Path, got: int, *, wanted: int) -> None:
    if got != wanted:
        raise InternalError(
            Problem(
                code="MS-603",
                what="a table of the annotation lacks rows, or has those of another one",
                where=str(path.parent),
                got=f"{got} entries in {path.name}",
                wanted=f"{wanted} entries",
                remedy="delete the folder: the same command writes it again",
            )
        )
