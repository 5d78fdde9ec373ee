"""Pairs to tokens, in this process or in several: the same tokens in the same order either way."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

from modpo.config.sources import DataConfig
from modpo.config.tree import SweepConfig
from modpo.data.pairs import PreferencePair
from modpo.data.spool import Spool
from modpo.data.texts import Prompt
from modpo.data.tokenize import EncodedPair, Encoder, load_tokenizer

T = TypeVar("T")
Texts = tuple[Prompt, str, str]

BATCH_PAIRS = 1000
# Below this many pairs the start of the processes takes longer than the work.
PAIRS_FOR_PROCESSES = 20_000


def encoded_pairs(
    pairs: Spool[PreferencePair], encoder: Encoder, config: SweepConfig, model_path: str
) -> Iterator[tuple[PreferencePair, EncodedPair]]:
    """Every pair with its tokens, in order."""
    num_proc = num_processes(pairs, config.data)
    if num_proc == 1:
        for pair in pairs:
            yield pair, encoder.pair(pair.prompt, pair.chosen, pair.rejected)
        return
    # Spawned, not forked: this process may hold threads of Ray and of the tokenizer.
    with ProcessPoolExecutor(
        num_proc,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_load_encoder,
        initargs=(model_path, config.model.revision, config.data.model_dump_json()),
    ) as pool:
        waiting: deque[tuple[list[PreferencePair], Future[list[EncodedPair]]]] = deque()
        for batch in _batches(pairs):
            texts = [(pair.prompt, pair.chosen, pair.rejected) for pair in batch]
            waiting.append((batch, pool.submit(_encode, texts)))
            # Bounded: a fast reader must not queue all rows.
            if len(waiting) > 2 * num_proc:
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)


def num_processes(pairs: Sized, data: DataConfig) -> int:
    if data.num_proc is not None:
        return data.num_proc
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if len(pairs) >= PAIRS_FOR_PROCESSES else 1


def _finished(
    waiting: deque[tuple[list[PreferencePair], Future[list[EncodedPair]]]],
) -> Iterator[tuple[PreferencePair, EncodedPair]]:
    batch, future = waiting.popleft()
    yield from zip(batch, future.result(), strict=True)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH_PAIRS)):
        yield batch


_encoders: list[Encoder] = []
"""The encoder of a worker process, loaded once."""


def _load_encoder(model_path: str, revision: str | None, data: str) -> None:
    _encoders.append(Encoder(load_tokenizer(model_path, revision), DataConfig.model_validate_json(data)))


def _encode(texts: Sequence[Texts]) -> list[EncodedPair]:
    return [_encoders[0].pair(*three) for three in texts]
