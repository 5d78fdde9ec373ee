"""Texts to tokens, in this process or in several: the same tokens in the same order either way."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from modpo.config.sources import DataConfig
from modpo.config.tree import SweepConfig
from modpo.data.texts import Prompt
from modpo.data.tokenize import EncodedPair, Encoder, Tokens, load_tokenizer

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
Texts = tuple[Prompt, str, str]

BATCH_ITEMS = 1000
# Below this many pairs and prompts the start of the processes takes longer than the work.
ITEMS_FOR_PROCESSES = 20_000


@dataclass(frozen=True)
class Encoding:
    """Turns items into tokens as they come.

    Attributes:
        encoder: that of this process.
        pool: processes with encoders of their own; None where there is only this one.
    """

    encoder: Encoder
    pool: Executor | None = None
    num_proc: int = 1

    def pairs(self, items: Iterable[T], texts: Callable[[T], Texts]) -> Iterator[tuple[T, EncodedPair]]:
        """Every item with the tokens of its prompt and two responses, in order."""
        if self.pool is None:
            return ((item, self.encoder.pair(*texts(item))) for item in items)
        return self._in_processes(_pairs, items, texts)

    def prompts(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Tokens]]:
        """Every prompt with the tokens from which a response is generated, in order."""
        if self.pool is None:
            return ((prompt, self.encoder.prompt_ids(prompt)) for prompt in prompts)
        return self._in_processes(_prompts, prompts, lambda prompt: prompt)

    def _in_processes(
        self, work: Callable[[list[A]], list[R]], items: Iterable[T], argument: Callable[[T], A]
    ) -> Iterator[tuple[T, R]]:
        assert self.pool is not None, "a pool has processes"
        waiting: deque[tuple[list[T], Future[list[R]]]] = deque()
        for batch in _batches(items):
            waiting.append((batch, self.pool.submit(work, [argument(item) for item in batch])))
            # Bounded: a fast reader must not queue all rows.
            if len(waiting) > 2 * self.num_proc:
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)


@contextmanager
def encoding(encoder: Encoder, config: SweepConfig, model_path: str, *, num_items: int) -> Iterator[Encoding]:
    """For one artefact: where it has many pairs or prompts, its processes live as long as the block."""
    num_proc = num_processes(num_items, config.data)
    if num_proc == 1:
        yield Encoding(encoder)
        return
    # Spawned, not forked: this process may hold threads of Ray and of the tokenizer.
    with ProcessPoolExecutor(
        num_proc,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_load_encoder,
        initargs=(model_path, config.model.revision, config.data.model_dump_json()),
    ) as pool:
        yield Encoding(encoder, pool, num_proc)


def num_processes(num_items: int, data: DataConfig) -> int:
    if data.num_proc is not None:
        return data.num_proc
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if num_items >= ITEMS_FOR_PROCESSES else 1


def _finished(waiting: deque[tuple[list[T], Future[list[R]]]]) -> Iterator[tuple[T, R]]:
    batch, future = waiting.popleft()
    yield from zip(batch, future.result(), strict=True)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH_ITEMS)):
        yield batch


_encoders: list[Encoder] = []
"""The encoder of a worker process, loaded once."""


def _load_encoder(model_path: str, revision: str | None, data: str) -> None:
    _encoders.append(Encoder(load_tokenizer(model_path, revision), DataConfig.model_validate_json(data)))


def _pairs(texts: Sequence[Texts]) -> list[EncodedPair]:
    return [_encoders[0].pair(*three) for three in texts]


def _prompts(prompts: Sequence[Prompt]) -> list[Tokens]:
    return [_encoders[0].prompt_ids(prompt) for prompt in prompts]
