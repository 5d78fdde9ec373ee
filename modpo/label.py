"""Pairs from prompts alone: sample, score, compare, and draw the label (Bradley-Terry in the declared unit).

    labelled-<digest>/  pairs.parquet     the prepared pairs, and the made ones in the same columns
                        samples.parquet   every sampled response with its rewards (raw units, higher is better)
                        units.json        size of one unit of each reward that was scored here
                        label.json        what was made, with the seeds it was made with

A label is a draw, never the better reward itself: hard labels on pairs that objectives disagree about move the optimum
(docs/concepts.md). Prompts go in fixed chunks with seeds of their own, so the number of workers changes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from modpo.artifacts import committed, is_complete, verified, write_json, writing
from modpo.config.objectives import ObjectiveConfig
from modpo.config.spec import Work
from modpo.config.tree import LabelConfig, SweepConfig
from modpo.data.prepared import LabelPrompt, read_label_prompts, stored_prompt
from modpo.data.tokenize import load_tokenizer
from modpo.errors import InputError, Problem
from modpo.evaluation.generate import sample_responses
from modpo.models import load_model
from modpo.rewards.base import Completion
from modpo.rewards.scorers import build_scorer
from modpo.rewards.units import objective_unit
from modpo.scoring import ResponseModel, completion_logps
from modpo.watch import kept

CHUNK_PROMPTS = 32
# Seven digits: with five they were the parts of a worker, which earlier versions left.
PARTS = "part-???????"

Row = dict[str, Any]
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Candidate:
    """Two different responses to one prompt, in the order in which they were sampled."""

    prompt: LabelPrompt
    first: Row
    second: Row


def label_shard(work: Work, *, rank: int, world_size: int, device: torch.device, report: Report) -> int:
    """Samples and scores this rank's chunks of prompts into `work.output`; returns how many responses it sampled.

    A chunk has a part of its own, the same whoever makes it: what an earlier attempt has left is not sampled again,
    however many workers that attempt had.
    """
    label, (index, count) = work.config.label, work.shard
    assert label is not None
    prompts = list(enumerate(read_label_prompts(Path(work.inputs.prepared))))
    chunks = [prompts[start : start + CHUNK_PROMPTS] for start in range(0, len(prompts), CHUNK_PROMPTS)]
    mine = chunks[index * world_size + rank :: count * world_size]
    parts = {Path(work.output) / f"part-{chunk[0][0]:07d}": chunk for chunk in mine}
    missing = {folder: chunk for folder, chunk in parts.items() if not is_complete(folder)}
    if not missing:
        return 0
    sampler, num_sampled = _Sampler(work, device), 0
    for number, (folder, chunk) in enumerate(missing.items(), start=1):
        rows = sampler.rows(chunk)
        with writing(folder, {"kind": work.kind}) as aside:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=sampler.schema), aside / "part.parquet")
        kept()
        num_sampled += len(rows)
        report({"step": number, "num_steps": len(missing)})
    return num_sampled


class _Sampler:
    """The start model with the scorers of every objective that can score what it writes."""

    def __init__(self, work: Work, device: torch.device) -> None:
        config = work.config
        assert config.label is not None
        self._config, self._label = config, config.label
        self._base = load_model(config.model, path=work.inputs.start_model).to(device)
        self._tokenizer = load_tokenizer(str(Path(work.inputs.prepared) / "tokenizer"))
        self._scorers = {
            o.name: build_scorer(config, o, work.inputs, base=self._base) for o in scored_objectives(config)
        }
        self._needs_logps = any(config.implicit_reward(o) is not None for o in scored_objectives(config))

    @property
    def schema(self) -> pyarrow.Schema:
        return pyarrow.schema(
            [
                ("prompt_number", pyarrow.int64()),
                ("response", pyarrow.string()),
                ("response_ids", pyarrow.list_(pyarrow.int64())),
                ("truncated", pyarrow.bool_()),
                *((name, pyarrow.float64()) for name in self._scorers),
            ]
        )

    def rows(self, chunk: Sequence[tuple[int, LabelPrompt]]) -> list[Row]:
        """Every response to these numbered prompts; the seed follows from the run's and from the first number."""
        label = self._label
        numbered = [entry for entry in chunk for _ in range(label.responses_per_prompt)]
        samples = sample_responses(
            self._base,
            self._tokenizer,
            [prompt.prompt_ids for _, prompt in numbered],
            max_new_tokens=label.max_new_tokens,
            batch_size=label.batch_size,
            seed=self._config.seed * 1_000_003 + chunk[0][0],
        )
        completions = [
            Completion(
                prompt.prompt,
                self._tokenizer.decode(sample.response_ids, skip_special_tokens=True),
                prompt.prompt_ids,
                sample.response_ids,
            )
            for (_, prompt), sample in zip(numbered, samples, strict=True)
        ]
        logps = self._reference_logps(completions)
        rewards = {name: scorer.score(completions, reference_logps=logps) for name, scorer in self._scorers.items()}
        return [
            {
                "prompt_number": number,
                "response": completion.response,
                "response_ids": list(sample.response_ids),
                "truncated": sample.truncated,
                **{name: float(values[row]) for name, values in rewards.items()},
            }
            for row, ((number, _), completion, sample) in enumerate(zip(numbered, completions, samples, strict=True))
        ]

    def _reference_logps(self, completions: Sequence[Completion]) -> Any:
        if not self._needs_logps:
            return np.full(len(completions), np.nan)
        return completion_logps(
            ResponseModel(self._base, longest=self._config.longest_sequence),
            [c.prompt_ids for c in completions],
            [c.response_ids for c in completions],
            batch_size=self._label.batch_size,
        )


def scored_objectives(config: SweepConfig) -> list[ObjectiveConfig]:
    """Objectives whose reward scores responses before any model of the sweep is trained on them."""
    return [objective for objective in config.objectives if objective.scores_new_responses]


def merge_labels(work: Work, *, output: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Joins all parts, draws the labels and commits the artefact; returns what was made.

    Raises:
        InputError: an objective gets no pair, or a reward never differs.
    """
    config, label = work.config, work.config.label
    assert label is not None
    prepared = Path(work.inputs.prepared)
    # Every one of them: of a part that was left out nobody would miss the rows.
    parts = [verified(part) / "part.parquet" for part in committed(Path(work.output), PARTS)]
    samples = pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in parts).sort_by("prompt_number")
    candidates, counts = form_candidates(samples.to_pylist(), read_label_prompts(prepared), label, seed=config.seed)
    _refuse_empty(candidates, counts)
    units = {
        o.name: objective_unit(o, np.array([c.first[o.name] - c.second[o.name] for c in candidates]))
        for o in scored_objectives(config)
    }
    pairs = pyarrow.parquet.read_table(prepared / "pairs.parquet")
    made: list[Row] = []
    for name in config.labelled():
        rows = list(draw_labels(candidates, name, unit=units[name], seed=config.seed))
        made += rows
        counts[f"pairs {name}"] = len(rows)
    with writing(output, description) as aside:
        table = pyarrow.concat_tables([pairs, pyarrow.Table.from_pylist(made, schema=pairs.schema)])
        pyarrow.parquet.write_table(table, aside / "pairs.parquet")
        pyarrow.parquet.write_table(samples, aside / "samples.parquet")
        write_json(aside / "units.json", units)
        write_json(aside / "label.json", {"seed": config.seed, "counts": counts, "units": units})
    return counts


def form_candidates(
    samples: Sequence[Row], prompts: Sequence[LabelPrompt], label: LabelConfig, *, seed: int
) -> tuple[list[Candidate], dict[str, int]]:
    """Pairs of different responses to the same prompt, and how many responses were sampled, cut and alike."""
    counts: Counter[str] = Counter(prompts=len(prompts), responses=len(samples), truncated=0, identical=0)
    candidates: list[Candidate] = []
    for number, group in itertools.groupby(samples, key=lambda row: row["prompt_number"]):
        rows = list(group)
        counts["truncated"] += sum(row["truncated"] for row in rows)
        formed = [
            Candidate(prompts[number], first, second)
            for first, second in itertools.combinations(rows, 2)
            if first["response_ids"] != second["response_ids"]
        ]
        counts["identical"] += len(rows) * (len(rows) - 1) // 2 - len(formed)
        if label.max_pairs_per_prompt is not None and len(formed) > label.max_pairs_per_prompt:
            formed = random.Random(f"{seed}:label:{number}").sample(formed, label.max_pairs_per_prompt)
        candidates += formed
    return candidates, dict(counts)


def draw_labels(candidates: Sequence[Candidate], objective: str, *, unit: float, seed: int) -> Iterator[Row]:
    """One pair each, its label DRAWN: the first response is chosen with probability sigmoid((r_1 - r_2) / unit)."""
    for number, candidate in enumerate(candidates):
        first, second = candidate.first, candidate.second
        draw = _uniform(f"{seed}:{objective}:{number}:{candidate.prompt.prompt!r}")
        chosen, rejected = (
            (first, second) if draw < _sigmoid((first[objective] - second[objective]) / unit) else (second, first)
        )
        key = json.dumps([objective, candidate.prompt.prompt, chosen["response"], rejected["response"]])
        yield {
            "pair_id": f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}-label{number}",
            "objective": objective,
            "split": candidate.prompt.split,
            "prompt": stored_prompt(candidate.prompt.prompt),
            "chosen": chosen["response"],
            "rejected": rejected["response"],
            "prompt_ids": list(candidate.prompt.prompt_ids),
            "chosen_ids": chosen["response_ids"],
            "rejected_ids": rejected["response_ids"],
        }


def _refuse_empty(candidates: Sequence[Candidate], counts: Mapping[str, int]) -> None:
    if not any(candidate.prompt.split == "train" for candidate in candidates):
        raise InputError(
            Problem(
                code="MS-233",
                what="the start model gave no two different responses to any prompt that is trained on",
                where="label",
                got=", ".join(f"{count} {kind}" for kind, count in counts.items()),
                wanted="prompts that can be answered in several ways",
                remedy="raise label.responses_per_prompt or label.max_new_tokens, or give more prompts",
            )
        )


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, not on the order or the number of draws."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))
