"""The prepare stage: every objective's pairs validated, tokenised, split by prompt, in one artefact.

prepared-<digest>/  pairs.parquet             one row a pair: id, objective, split, texts, token ids, numbers in columns
                    prompts.parquet           held-out prompts with their tokens
                    sft.parquet               prompt and response tokens to imitate (training prompts only)
                    label_prompts.parquet     prompts for which the label stage makes pairs
                    scored_<objective>.parquet  texts with numbers, for a reward model that is trained on them
                    tokenizer/                the tokenizer that made them
                    counts.json               what became of the rows of each source, and how long they are

Rows stream from and to the disk: the memory needed does not grow with their texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpo.artifacts import write_json, writing
from modpo.config.rewards import ColumnsReward
from modpo.config.tree import SweepConfig
from modpo.data.encoding import Encoding, encoding
from modpo.data.held_out import HeldOut, held_out_prompts
from modpo.data.lengths import Lengths
from modpo.data.loading import LoadedData
from modpo.data.pairs import LoadedPairs, PreferencePair
from modpo.data.tables import LABEL_PROMPTS, PROMPTS, SCORED, SFT, column_names, pairs_schema, table_writer
from modpo.data.texts import Prompt, prompt_key
from modpo.data.tokenize import EncodedPair, Encoder, Tokens, load_tokenizer, save_tokenizer
from modpo.errors import InputError, Problem

PREPARE_VERSION = 3

Counts = dict[str, dict[str, Any]]


def write_prepared(folder: Path, config: SweepConfig, data: LoadedData, *, model_path: str) -> Counts:
    """Tokenises and writes the artefact; returns its counts.

    Raises:
        InputError: nothing is left to train or evaluate on after the length limit.
    """
    tokenizer = load_tokenizer(model_path, config.model.revision)
    held_out = held_out_prompts(map(prompt_key, data.prompts), fraction=config.data.eval_fraction, seed=config.seed)
    num_items = sum(len(loaded.pairs) for loaded in data.objectives.values()) + len(data.label_prompts)
    counts: Counts = {}
    with (
        writing(folder, {"stage": "prepared", "version": PREPARE_VERSION, "counts": counts}) as aside,
        encoding(Encoder(tokenizer, config.data), config, model_path, num_items=num_items) as tokens,
    ):
        preparation = _Preparation(config, data, tokens, held_out)
        counts |= preparation.write_pairs(aside / "pairs.parquet")
        preparation.write_prompts(aside)
        preparation.write_scored(aside)
        if config.sft is not None:
            counts["sft"] = preparation.write_sft(aside / "sft.parquet")
        save_tokenizer(tokenizer, aside / "tokenizer")
        write_json(aside / "counts.json", counts)
    return counts


@dataclass(frozen=True)
class _Preparation:
    """The parts of one artefact; `held_out` has the keys of the prompts that no trial trains on."""

    config: SweepConfig
    data: LoadedData
    tokens: Encoding
    held_out: HeldOut

    def write_pairs(self, path: Path) -> Counts:
        """All pairs of all objectives, and what became of them.

        Raises:
            InputError: an objective with pairs has none left to train on.
        """
        names = [o.name for o in self.config.objectives if isinstance(o.reward, ColumnsReward)]
        counts: Counts = {}
        empty: list[Problem] = []
        with table_writer(path, pairs_schema(names)) as table:
            for name, loaded in self.data.objectives.items():
                loaded.counts.too_long = loaded.counts.truncated = 0
                lengths, num_training = Lengths(), 0
                for pair, encoded in self._kept(loaded):
                    split = self._split(pair.prompt)
                    num_training += split == "train"
                    lengths.add(encoded)
                    table.append(_pair_row(pair, encoded, split))
                counts[name] = {**loaded.counts.as_dict(), "lengths": lengths.as_dict()}
                empty += [] if num_training else [self._nothing_left(name)]
        if empty:
            raise InputError(empty)
        return counts

    def _kept(self, loaded: LoadedPairs) -> Iterator[tuple[PreferencePair, EncodedPair]]:
        """Pairs within the length limit, cut to it where that is wanted; the others are counted."""
        limit, cuts = self.config.data.max_length, self.config.data.too_long == "truncate"
        for pair, encoded in self.tokens.pairs(loaded.pairs, lambda pair: (pair.prompt, pair.chosen, pair.rejected)):
            if encoded.longest <= limit:
                yield pair, encoded
                continue
            cut = encoded.cut(limit) if cuts else None
            if cut is None:
                loaded.counts.too_long += 1
            else:
                loaded.counts.truncated += 1
                yield pair, cut

    def write_prompts(self, folder: Path) -> None:
        """Held-out prompts, in an order that does not follow the data's, and those to be answered for labels.

        Prompts that leave no room for a response are left out.
        """
        with table_writer(folder / "prompts.parquet", PROMPTS) as table:
            for prompt, prompt_ids in self._short_prompts(self._held_out_prompts()):
                table.append({"prompt": _as_json(prompt), "prompt_ids": prompt_ids})
        if self.config.label is None:
            return
        with table_writer(folder / "label_prompts.parquet", LABEL_PROMPTS) as table:
            for prompt, prompt_ids in self._short_prompts(self.data.label_prompts):
                table.append({"prompt": _as_json(prompt), "prompt_ids": prompt_ids, "split": self._split(prompt)})

    def _short_prompts(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Tokens]]:
        limit = self.config.data.max_length
        return ((prompt, tokens) for prompt, tokens in self.tokens.prompts(prompts) if len(tokens) < limit)

    def _held_out_prompts(self) -> list[Prompt]:
        found: dict[str, Prompt] = {}
        for prompt in self.data.prompts:
            if prompt_key(prompt) in self.held_out:
                found.setdefault(prompt_key(prompt), prompt)
        return [found[key] for key in sorted(found, key=lambda key: hashlib.sha256(key.encode()).hexdigest())]

    def write_scored(self, folder: Path) -> None:
        """Texts with raw numbers, for each reward model that is trained by regression."""
        for name, texts in self.data.scored.items():
            with table_writer(folder / f"scored_{name}.parquet", SCORED) as table:
                for prompt, response, score in texts:
                    split = self._split(prompt)
                    table.append({"prompt": _as_json(prompt), "response": response, "score": score, "split": split})

    def write_sft(self, path: Path) -> dict[str, int]:
        """Rows to imitate with their counts: the declared texts, or every distinct chosen response.

        Raises:
            InputError: no row is left.
        """
        counts = {"rows": 0, "unusable": self.data.unusable.get("sft.data", 0), "held_out": 0, "too_long": 0}
        kept = 0
        with table_writer(path, SFT) as table:
            texts = self._training_texts(counts)
            for _, encoded in self.tokens.pairs(texts, lambda text: (text[0], text[1], text[1])):
                if encoded.longest > self.config.data.max_length:
                    counts["too_long"] += 1
                    continue
                kept += 1
                table.append({"prompt_ids": encoded.prompt_ids, "response_ids": encoded.chosen_ids})
        if not kept:
            raise InputError(
                Problem(
                    code="MS-225",
                    what="no text is left to fine-tune on",
                    where="sft.data",
                    got=", ".join(f"{count} {kind}" for kind, count in counts.items()),
                    wanted="at least one text",
                    remedy="raise data.max_length, or give texts of prompts that are not held out",
                )
            )
        return counts

    def _training_texts(self, counts: dict[str, int]) -> Iterator[tuple[Prompt, str]]:
        """Texts to imitate, without those of held-out prompts, which are counted."""
        for prompt, response in self._texts_to_imitate():
            counts["rows"] += 1
            if prompt_key(prompt) in self.held_out:
                counts["held_out"] += 1
            else:
                yield prompt, response

    def _texts_to_imitate(self) -> Iterator[tuple[Prompt, str]]:
        if self.data.sft:
            yield from self.data.sft
            return
        seen: set[bytes] = set()
        for pair in self.data.pairs:
            key = hashlib.sha256(json.dumps([pair.prompt, pair.chosen]).encode()).digest()[:16]
            if key not in seen:
                seen.add(key)
                yield pair.prompt, pair.chosen

    def _split(self, prompt: Prompt) -> str:
        return "eval" if prompt_key(prompt) in self.held_out else "train"

    def _nothing_left(self, objective: str) -> Problem:
        return Problem(
            code="MS-223",
            what=f"objective {objective!r} has no training pairs within data.max_length",
            where="data.max_length",
            got=f"max_length {self.config.data.max_length}",
            wanted="at least one pair of a prompt that is not held out",
            remedy="raise data.max_length, set data.too_long to truncate, or give more prompts",
        )


def _pair_row(pair: PreferencePair, encoded: EncodedPair, split: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pair_id": pair.pair_id,
        "objective": pair.objective,
        "split": split,
        "prompt": _as_json(pair.prompt),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "prompt_ids": encoded.prompt_ids,
        "chosen_ids": encoded.chosen_ids,
        "rejected_ids": encoded.rejected_ids,
    }
    for objective, chosen, rejected in pair.column_rewards:
        row |= dict(zip(column_names(objective), (chosen, rejected), strict=True))
    return row


def _as_json(prompt: Prompt) -> str:
    return json.dumps(prompt, ensure_ascii=False)
