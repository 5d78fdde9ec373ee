"""The prepare stage: every objective's pairs validated, tokenised, split by prompt, in one artefact.

prepared-<digest>/  pairs.parquet     one row a pair: id, objective, split, texts, token ids
                    prompts.parquet   held-out prompts with their tokens
                    sft.parquet       prompt and response tokens to imitate (training prompts only)
                    tokenizer/        the tokenizer that made them
                    counts.json       rows, pairs, ties, duplicates and dropped rows of each source
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from modpo.artifacts import write_json, writing
from modpo.config.tree import SweepConfig
from modpo.data.loading import LoadedData, held_out_prompts
from modpo.data.pairs import prompt_key
from modpo.data.tokenize import Encoder, load_tokenizer, save_tokenizer
from modpo.errors import InputError, Problem

PREPARE_VERSION = 1


def write_prepared(folder: Path, config: SweepConfig, data: LoadedData, *, model_path: str) -> dict[str, Any]:
    """Tokenises and writes the artefact; returns its counts.

    Raises:
        InputError: nothing is left to train or evaluate on after the length limit.
    """
    tokenizer = load_tokenizer(model_path, config.model.revision)
    encoder = Encoder(tokenizer, config.data)
    held_out = held_out_prompts(
        (prompt_key(pair.prompt) for pair in data.pairs), fraction=config.data.eval_fraction, seed=config.seed
    )
    rows = list(_pair_rows(data, encoder, held_out, config.data.max_length))
    _refuse_empty(config, rows)
    prompts = list(_prompt_rows(data, encoder, held_out, config.data.max_length))
    sft_rows, sft_counts = _sft_table(config, data, encoder, held_out)
    counts = {name: loaded.counts.as_dict() for name, loaded in data.objectives.items()} | sft_counts
    with writing(folder, {"stage": "prepared", "version": PREPARE_VERSION, "counts": counts}) as aside:
        _write_table(aside / "pairs.parquet", rows)
        _write_table(aside / "prompts.parquet", prompts)
        if sft_rows:
            _write_table(aside / "sft.parquet", sft_rows)
        save_tokenizer(tokenizer, aside / "tokenizer")
        write_json(aside / "counts.json", counts)
    return counts


def _sft_table(
    config: SweepConfig, data: LoadedData, encoder: Encoder, held_out: set[str]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Rows to imitate with their counts, or nothing where there is no supervised fine-tuning.

    Raises:
        InputError: there is, but no row is left for it.
    """
    if config.sft is None:
        return [], {}
    counts = {"rows": 0, "held_out": 0, "too_long": 0}
    rows = list(_sft_rows(data, encoder, held_out, config.data.max_length, counts))
    if not rows:
        raise InputError(
            Problem(
                code="MS-225",
                what="no text is left to fine-tune on",
                where="sft.data",
                got=", ".join(f"{count} {kind}" for kind, count in counts.items()),
                remedy="raise data.max_length, or give texts of prompts that are not held out",
            )
        )
    return rows, {"sft": counts}


def _pair_rows(data: LoadedData, encoder: Encoder, held_out: set[str], max_length: int) -> Iterator[dict[str, Any]]:
    for name, loaded in data.objectives.items():
        loaded.counts.too_long = 0
        for pair in loaded.pairs:
            encoded = encoder.pair(pair.prompt, pair.chosen, pair.rejected)
            if encoded.longest > max_length:
                loaded.counts.too_long += 1
                continue
            key = prompt_key(pair.prompt)
            yield {
                "pair_id": pair.pair_id,
                "objective": name,
                "split": "eval" if key in held_out else "train",
                "prompt": json.dumps(pair.prompt, ensure_ascii=False),
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "prompt_ids": encoded.prompt_ids,
                "chosen_ids": encoded.chosen_ids,
                "rejected_ids": encoded.rejected_ids,
            }


def _prompt_rows(data: LoadedData, encoder: Encoder, held_out: set[str], max_length: int) -> Iterator[dict[str, Any]]:
    """Held-out prompts that leave room for a response, in an order that does not follow the data's."""
    prompts = {prompt_key(pair.prompt): pair.prompt for pair in data.pairs}
    for key in sorted(held_out, key=lambda key: hashlib.sha256(key.encode()).hexdigest()):
        prompt_ids = encoder.prompt_ids(prompts[key])
        if len(prompt_ids) < max_length:
            yield {"prompt": json.dumps(prompts[key], ensure_ascii=False), "prompt_ids": prompt_ids}


def _sft_rows(
    data: LoadedData, encoder: Encoder, held_out: set[str], max_length: int, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Texts to imitate: the declared ones, or every distinct chosen response, of training prompts."""
    texts = data.sft or list(dict.fromkeys((pair.prompt, pair.chosen) for pair in data.pairs))
    for prompt, response in texts:
        counts["rows"] += 1
        if prompt_key(prompt) in held_out:
            counts["held_out"] += 1
            continue
        prompt_ids, response_ids = encoder.response(prompt, response)
        if len(prompt_ids) + len(response_ids) > max_length:
            counts["too_long"] += 1
            continue
        yield {"prompt_ids": prompt_ids, "response_ids": response_ids}


def _refuse_empty(config: SweepConfig, rows: list[dict[str, Any]]) -> None:
    problems = [
        Problem(
            code="MS-223",
            what=f"objective {objective.name!r} has no training pairs within data.max_length",
            where="data.max_length",
            got=f"max_length {config.data.max_length}",
            remedy="raise data.max_length or give more prompts",
        )
        for objective in config.objectives
        if objective.pairs is not None
        and not any(row["objective"] == objective.name and row["split"] == "train" for row in rows)
    ]
    if problems:
        raise InputError(problems)


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
