"""Data files as tests write them: one file, the section of the sweep file that names it, and what `validate` says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.pipeline.conftest import small_sweep

# Stands in the texts of every bad row, and must never stand in a message.
SECRET = "swordfish"

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def as_pairs(raw: dict[str, Any], source: dict[str, Any]) -> None:
    """Of the second objective: the first pair of a sweep is rendered, and the demo's tokenizer has no chat template."""
    raw["objectives"][1]["pairs"] = source


def as_pairs_of_both(raw: dict[str, Any], source: dict[str, Any]) -> None:
    for objective in raw["objectives"]:
        objective["pairs"] = source


def as_texts(raw: dict[str, Any], source: dict[str, Any]) -> None:
    raw["sft"]["data"] = source


def as_prompts(raw: dict[str, Any], source: dict[str, Any]) -> None:
    raw["label"] = {"prompts": source}
    raw["evaluation"].pop("enumerate")
    for objective in raw["objectives"]:
        del objective["pairs"]
        objective["reward"] = {"type": "function", "function": "modpo.data.demo.rewards:brief"}


def as_scores(raw: dict[str, Any], source: dict[str, Any]) -> None:
    raw["objectives"][0]["reward"] = {"type": "trained", "loss": "regression", "data": source}


def with_costs(raw: dict[str, Any], source: dict[str, Any]) -> None:
    """Numbers beside the responses of both objectives' pairs, for the second one's reward."""
    as_pairs_of_both(raw, source)
    raw["objectives"][1]["reward"] = {"type": "columns", "chosen": "cost_a", "rejected": "cost_b"}


@dataclass(frozen=True)
class Case:
    """One file under a sweep.

    Attributes:
        content: of the file `name`, or of several below a folder of that name.
        keys: beside `path`, such as the form of pairs.
        says: the whole message with paths relative to the folder; of a valid file, nothing.
        counts: what became of the rows, where it is not zero.
    """

    content: bytes | str | Mapping[str, bytes | str]
    says: str = ""
    name: str = "rows.jsonl"
    keys: Mapping[str, Any] = field(default_factory=dict)
    change: Change = as_pairs
    sections: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def message(self) -> str:
        return dedent(self.says).strip()

    def write(self, world: Path, folder: Path) -> dict[str, Any]:
        """Writes the data; the sweep that names it."""
        path = folder / self.name
        files = self.content if isinstance(self.content, Mapping) else {"": self.content}
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        raw = small_sweep(world, "bad")
        self.change(raw, {"path": str(path), **self.keys})
        return raw | dict(self.sections)


def lines(*rows: Any) -> str:
    """JSON lines. A surrogate stays an escape, as programs write it."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(columns: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def pair(prompt: Any = f"{SECRET} p", chosen: Any = f"{SECRET} a", rejected: Any = f"{SECRET} b", **more: Any) -> Any:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}
