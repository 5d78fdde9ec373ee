"""Writes the demo world: an untrained tiny Llama with its tokenizer, a corpus, and sampled preference labels."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from modpo.artifacts import write_json_lines, writing
from modpo.data.demo import WORLD_VERSION
from modpo.data.demo.language import prompts, sample_answer, sample_slip
from modpo.data.demo.model import write_model
from modpo.data.demo.rewards import brief, vivid

CORPUS_SIZE = 12000
PAIRS_PER_OBJECTIVE = 12000
SLIP_SHARE = 0.3

RewardFunction = Callable[[Sequence[str], Sequence[str]], list[float]]


def write_world(folder: Path, *, seed: int) -> None:
    """Fills `folder` with `model/`, `corpus.jsonl`, `vivid.jsonl` and `brief.jsonl`; the seed fixes every byte."""
    generator = random.Random(seed)
    with writing(folder, {"stage": "world", "version": WORLD_VERSION, "seed": seed}) as aside:
        corpus = [(prompt, sample_answer(prompt, generator)) for prompt in _drawn_prompts(CORPUS_SIZE, generator)]
        write_json_lines(aside / "corpus.jsonl", [{"prompt": p, "response": r} for p, r in corpus])
        for name, reward in (("vivid", vivid), ("brief", brief)):
            write_json_lines(aside / f"{name}.jsonl", sampled_pairs(reward, PAIRS_PER_OBJECTIVE, generator))
        write_model(aside / "model", texts=[f"{prompt} {response}" for prompt, response in corpus], seed=seed)


def sampled_pairs(reward: RewardFunction, count: int, generator: random.Random) -> list[dict[str, str]]:
    """Pairs of answers whose label is DRAWN from Bradley-Terry, sigmoid(reward gap) in raw reward units.

    Labels by argmax would move the optimum: see docs/concepts.md.
    """
    rows: list[dict[str, str]] = []
    for prompt in _drawn_prompts(count, generator):
        first, second = sample_answer(prompt, generator), _other_response(prompt, generator)
        while second == first:
            second = _other_response(prompt, generator)
        values = reward([prompt, prompt], [first, second])
        first_wins = generator.random() < 1 / (1 + math.exp(values[1] - values[0]))
        chosen, rejected = (first, second) if first_wins else (second, first)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _other_response(prompt: str, generator: random.Random) -> str:
    draw = sample_slip if generator.random() < SLIP_SHARE else sample_answer
    return draw(prompt, generator)


def _drawn_prompts(count: int, generator: random.Random) -> list[str]:
    return [generator.choice(prompts()) for _ in range(count)]
