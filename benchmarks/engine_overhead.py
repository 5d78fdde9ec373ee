"""What the engine adds to a training step: the same step under DeepSpeed and in a bare loop of torch, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from benchmarks.variants import CPU, OUR_LOSS, Case, annotated
from modpo.config.optimisation import OptimisationConfig
from modpo.scoring import ResponseModel
from modpo.training.engine import DeepSpeedEngine
from modpo.training.process_group import process_group
from modpo.training.step import preference_micro_batch

LEARNING_RATE = 1e-6
MAX_GRAD_NORM = 1.0


def engine_and_bare(case: Case, rounds: int) -> tuple[list[float], list[float]]:
    """CPU seconds of each round's optimiser step: with the engine, and without.

    In a process of its own: what an engine needs in the environment makes TRL's trainer look for other ranks.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(_measured, case, rounds).result()


def _measured(case: Case, rounds: int) -> tuple[list[float], list[float]]:
    torch.set_num_threads(1)
    with process_group():
        steps = (_with_engine(case), _bare(case))
        for step in steps:
            step()
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for step, found in zip(steps, seconds, strict=True):
                started = time.process_time()
                step()
                found.append(time.process_time() - started)
    return seconds


def _with_engine(case: Case) -> Callable[[], float]:
    policy, data = case.size.policy(), annotated(case)
    rows = ResponseModel(policy, longest=case.longest)
    settings = OptimisationConfig(per_device_train_batch_size=len(data), max_grad_norm=MAX_GRAD_NORM)
    engine = DeepSpeedEngine(rows, settings, trained=policy)

    def step() -> float:
        batch = data.batch(range(len(data)), CPU)
        engine.micro_step(preference_micro_batch(engine.model, batch, OUR_LOSS).loss, learning_rate=LEARNING_RATE)
        return engine.grad_norm()

    return step


def _bare(case: Case) -> Callable[[], float]:
    policy, data = case.size.policy(), annotated(case)
    rows = ResponseModel(policy, longest=case.longest)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)

    def step() -> float:
        batch = data.batch(range(len(data)), CPU)
        torch.autograd.backward(preference_micro_batch(rows, batch, OUR_LOSS).loss)
        norm = torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return norm.item()

    return step
