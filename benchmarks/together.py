"""Points trained together against one after another: `python -m benchmarks.together`.

Random Llamas of several sizes under the real engine, LoRA r=16 on all linear layers, float32, one thread. In every
round the same batch is trained on by a group of points in one step and by as many points in steps of their own, in
turn; what is compared is processor time, which other processes of the machine disturb least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measuring import RESULTS, Ratio, commit, machine, print_ratios, print_table, ratio, write_results
from modpo.config.optimisation import OptimisationConfig
from modpo.config.tree import LoraConfig
from modpo.core.batch import PairLogps, PairRewards, PreferenceBatch
from modpo.core.losses import LossSettings
from modpo.core.trees import Tree, tree_batch
from modpo.models import attach_adapter
from modpo.orchestration.grouping import LayerSize, StepSize, largest_group
from modpo.scoring import ResponseModel
from modpo.stacking import StackedResponseModel
from modpo.telemetry import quiet_libraries
from modpo.training.cotraining import stacked_micro_batch
from modpo.training.engine import DeepSpeedEngine, StackedEngine
from modpo.training.process_group import process_group
from modpo.training.step import preference_micro_batch

VOCABULARY = 1000
LEARNING_RATE = 1e-4
TRAINING = OptimisationConfig(per_device_train_batch_size=1)
# What `resources.points_together: auto` must never fall short of.
BAR = 0.95


@dataclass(frozen=True)
class Case:
    """A model and its batch: pairs whose prompt and responses have as many tokens each."""

    hidden_size: int
    layers: int
    pairs: int
    tokens_each: int
    points: int

    @property
    def tokens(self) -> int:
        return 3 * self.pairs * self.tokens_each

    @property
    def largest(self) -> int:
        """Points that `auto` would put together."""
        layer = LayerSize(self.hidden_size, 12 * self.hidden_size**2)
        return largest_group(StepSize(self.tokens, layer), on_gpu=False)


CASES = (
    Case(64, 2, 8, 7, 8),
    Case(64, 2, 32, 7, 5),
    Case(128, 4, 4, 20, 8),
    Case(128, 4, 4, 40, 4),
    Case(128, 4, 4, 60, 2),
    Case(256, 4, 4, 20, 4),
    # Larger than `auto` makes them.
    Case(64, 2, 32, 7, 8),
    Case(128, 4, 4, 60, 4),
    Case(256, 4, 4, 60, 4),
    Case(384, 4, 8, 60, 4),
)
NUM_QUICK = 2


def main() -> None:
    """Prints one table and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.together", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="in which both ways take a turn")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes alone")
    parser.add_argument("--results", type=Path, default=RESULTS / "together.json", help="where the figures are written")
    arguments = parser.parse_args()
    cases = CASES[:NUM_QUICK] if arguments.quick else CASES
    quiet_libraries()
    torch.set_num_threads(1)
    with process_group():
        measured = {case: measure(case, arguments.rounds) for case in cases}
    rows = [row(case, *both) for case, both in measured.items()]
    print_table("points together against one after another", rows)
    ratios = {name_of(case): compared(case, *both) for case, both in measured.items()}
    print_ratios("what points take one after another / what they take together", ratios)
    write_results(arguments.results, {"machine": machine(), "commit": commit(), "rows": rows}, ratios)


def measure(case: Case, rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds of a step of all points, together and one after another, round by round."""
    longest = 2 * case.tokens_each
    settings = [
        LossSettings(weights=(weight, 1 - weight), units=(1.0, 1.0), primary=0, beta=0.1)
        for weight in torch.linspace(0.5, 0.9, case.points).tolist()
    ]
    policy = _policy(case)
    alone = DeepSpeedEngine(ResponseModel(policy, longest=longest), TRAINING, trained=policy)
    policy = _policy(case)
    stacked = StackedResponseModel(policy, longest=longest, num_policies=case.points)
    together = StackedEngine(stacked, TRAINING, trained=policy)

    def one_step(batch: PreferenceBatch) -> None:
        result = stacked_micro_batch(together.model, [batch] * case.points, settings)
        together.micro_step(result.loss, learning_rate=LEARNING_RATE)

    def own_steps(batch: PreferenceBatch) -> None:
        for own in settings:
            result = preference_micro_batch(alone.model, batch, own)
            alone.micro_step(result.loss, learning_rate=LEARNING_RATE)

    seconds: dict[Callable[[PreferenceBatch], None], list[float]] = {one_step: [], own_steps: []}
    for number in range(rounds + 1):
        batch = _batch(case, seed=number)
        for way in (one_step, own_steps)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            way(batch)
            seconds[way].append(time.process_time() - started)
    for engine in (alone, together):
        engine.close()
    # The first round warms up.
    return seconds[one_step][1:], seconds[own_steps][1:]


def compared(case: Case, together: list[float], alone: list[float]) -> Ratio:
    return ratio(together, alone, bar=BAR if case.points <= case.largest else None)


def row(case: Case, together: list[float], alone: list[float]) -> dict[str, Any]:
    found = compared(case, together, alone)
    return {
        "hidden_size": case.hidden_size,
        "tokens": case.tokens,
        "points": case.points,
        "numbers": case.points * case.tokens * case.hidden_size,
        "ms_alone": round(1e3 * statistics.median(alone) / case.points, 1),
        "ms_together": round(1e3 * statistics.median(together) / case.points, 1),
        "times_as_fast": found.median,
        "low": found.low,
        "high": found.high,
        "auto_groups": case.largest,
    }


def name_of(case: Case) -> str:
    return f"{case.points} points, hidden size {case.hidden_size}, {case.tokens} tokens"


def _policy(case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=case.hidden_size,
        intermediate_size=case.hidden_size * 8 // 3,
        num_hidden_layers=case.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    policy: torch.nn.Module = attach_adapter(LlamaForCausalLM(config), LoraConfig(), seed=0)
    return policy


def _batch(case: Case, *, seed: int) -> PreferenceBatch:
    """Random tokens, with references and rewards to match."""
    generator = torch.Generator().manual_seed(seed)

    def tokens() -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (case.tokens_each,), generator=generator).tolist())

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    trees = [Tree(tokens(), (tokens(), tokens())) for _ in range(case.pairs)]
    return PreferenceBatch(
        tree_batch(trees),
        PairLogps(numbers(case.pairs), numbers(case.pairs)),
        PairRewards(numbers(case.pairs, 2), numbers(case.pairs, 2)),
    )


if __name__ == "__main__":
    main()
