"""Steps of large random models on one GPU: `python -m benchmarks.gpu`.

Llamas in the shapes of Llama-2-7B and Llama-3.2-1B with random bfloat16 weights, trained as a point of a sweep is, with
DeepSpeed and the optimiser's step, but without Ray and without data on disk. For each model and each distribution of
lengths:

packed    all pairs in one row: one policy forward and backward pass, log-probabilities from the frozen-head kernel
padded    the step of the authors' code: chosen and rejected padded in one batch, full logits, and with an adapter also
          the forward passes of reference, margin and the margin's reference. Training all weights it is spared those.
          Its pairs go in three micro-batches: all at once would not fit beside a 7B model on 80 GB

Useful operations are those of an exact step (modpo/core/flops.py), held against the largest rate at which this GPU
multiplies large bfloat16 matrices. Seconds are those of whole steps; memory is the highest that torch had allocated.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.measuring import RESULTS, Ratio, commit, machine, print_table, ratio, write_results
from modpo.config.optimisation import DeepSpeedConfig, OptimisationConfig
from modpo.config.tree import LoraConfig
from modpo.core.batch import PairLogps, PairRewards, PreferenceBatch
from modpo.core.flops import MatmulShape, step_flops
from modpo.core.losses import LossSettings
from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.models import attach_adapter, sequence_logps
from modpo.scoring import ResponseModel, unpacked
from modpo.training.engine import DeepSpeedEngine
from modpo.training.process_group import process_group
from modpo.training.step import preference_micro_batch
from modpo.utilisation import matmul_peak, matmul_shape

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True},
    },
    "tiny": {
        **{"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"vocab_size": 512},
    },
}
LORA = LoraConfig(r=64, lora_alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
LENGTHS = {"uniform": ((30, 300), (30, 250)), "qa": ((100, 680), (30, 200))}
"""Tokens of a prompt and of a response, from and to."""
LONGEST = max(prompt[1] + response[1] for prompt, response in LENGTHS.values())
PAIRS, PADDED_PARTS = 6, 3
SETTINGS = LossSettings(weights=(0.5, 0.5), units=(1.0, 1.0), primary=0, beta=0.1)
LEARNING_RATE = 1e-5
GB = 1e9


@dataclass(frozen=True)
class Case:
    """A kind of training.

    Attributes:
        least_share: of the matmul peak, as the project asks for it; None where it asks for nothing.
        shrink: what lengths are divided by.
    """

    name: str
    shape: str
    lora: LoraConfig | None
    stage: Literal[0, 3]
    least_share: float | None = None
    shrink: int = 1

    @property
    def config(self) -> LlamaConfig:
        return LlamaConfig(**{"vocab_size": 32_000, "max_position_embeddings": 2048, **SHAPES[self.shape]})

    def pairs(self, lengths: str, seed: int) -> list[Tree]:
        """Random prompts with two random responses each."""
        generator = np.random.default_rng(seed)

        def tokens(least: int, most: int) -> tuple[int, ...]:
            length = generator.integers(least, most + 1) // self.shrink
            return tuple(generator.integers(self.config.vocab_size, size=length).tolist())

        prompt, response = LENGTHS[lengths]
        return [Tree(tokens(*prompt), (tokens(*response), tokens(*response))) for _ in range(PAIRS)]


CASES = (
    Case("7b, adapter", "7b", LORA, stage=0, least_share=0.4),
    Case("1b, adapter", "1b", LORA, stage=0),
    Case("1b, all weights, ZeRO 3", "1b", None, stage=3),
)
TINY_CASES = (
    Case("tiny, adapter", "tiny", LORA, stage=0, shrink=10),
    Case("tiny, all weights, ZeRO 3", "tiny", None, stage=3, shrink=10),
)


class PaddedModel(torch.nn.Module):
    """Scores a row as padded sequences with full logits, after what the authors' step computes without gradient.

    The margin's own adapter is another one there; the policy's stands for it here, with the same operations.
    """

    def __init__(self, policy: torch.nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: TreeBatch) -> Tensor:
        sequences = unpacked(batch)
        if isinstance(self.policy, PeftModel):
            with torch.no_grad():
                sequence_logps(self.policy, sequences)
                with self.policy.disable_adapter():
                    for _ in ("reference", "reference of the margin"):
                        sequence_logps(self.policy, sequences)
        return sequence_logps(self.policy, sequences)


Way = Callable[[torch.nn.Module], torch.nn.Module]
WAYS: dict[str, tuple[Way, int]] = {
    "packed": (lambda policy: ResponseModel(policy, longest=LONGEST), 1),
    "padded": (PaddedModel, PADDED_PARTS),
}
"""How a row is scored, and in how many micro-batches."""


@dataclass(frozen=True)
class Steps:
    """What the steps of one way took, one entry each.

    Attributes:
        tokens: that an exact step computes: each prompt once.
        flops: useful operations.
        peak: bytes, where a GPU counts them.
    """

    seconds: list[float]
    tokens: list[int]
    flops: list[int]
    peak: int | None


def main() -> None:
    """Prints one table a case and the ratios, and writes the results."""
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Ratio] = {}
    with process_group():
        for case in arguments.cases:
            found, made = measured_case(case, device, arguments.steps)
            rows += found
            ratios |= made
    results = {
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "torch": torch.__version__,
        "commit": commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "matmul_peak_tflops": round(matmul_peak(device, torch.bfloat16) / 1e12, 3),
        "steps": arguments.steps,
        "rows": rows,
    }
    write_results(arguments.results, results, ratios)
    print(f"bfloat16 matmul peak: {results['matmul_peak_tflops']} TFLOP/s on {results['gpu'] or 'the CPU'}")
    for name, value in ratios.items():
        bar = "" if value.bar is None else f", bar {value.bar}: {'met' if value.meets_bar else 'MISSED'}"
        print(f"{name}: {value.median} ({value.low} to {value.high}){bar}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each way and length")
    parser.add_argument("--only", default="", help="cases whose name begins so: 7b, 1b, ...")
    parser.add_argument("--results", type=Path, default=RESULTS / "gpu.json", help="where the figures are written")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, on the CPU too: shows that the code runs")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device: this benchmark needs one, and --tiny runs its code on the CPU\n")
    known = TINY_CASES if arguments.tiny else CASES
    arguments.cases = [case for case in known if case.name.startswith(arguments.only)]
    if not arguments.cases:
        parser.error(f"--only: no case begins so: {'; '.join(case.name for case in known)}")
    return arguments


def measured_case(case: Case, device: torch.device, steps: int) -> tuple[list[dict[str, Any]], dict[str, Ratio]]:
    """One row for each distribution of lengths, and how the two ways compare."""
    peak_rate = matmul_peak(device, torch.bfloat16)
    found = {way: steps_of(case, way, device, steps) for way in WAYS}
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Ratio] = {}
    for lengths in LENGTHS:
        packed, padded = found["packed"][lengths], found["padded"][lengths]
        least_seconds = [flops / peak_rate for flops in packed.flops]
        share = ratio(packed.seconds, least_seconds, bar=case.least_share)
        row = figures(packed, padded) | {"percent_of_peak": round(100 * share.median, 1)}
        print_table(f"{case.name}, {lengths}", [row])
        rows.append({"case": case.name, "lengths": lengths, **row})
        ratios[f"{case.name}, {lengths}: share of the matmul peak"] = share
        ratios[f"{case.name}, {lengths}: padded over packed step"] = ratio(packed.seconds, padded.seconds)
    return rows, ratios


def figures(packed: Steps, padded: Steps) -> dict[str, Any]:
    """One row of a table."""
    row = {
        "tokens": round(statistics.median(packed.tokens)),
        "packed_ms": round(1e3 * statistics.median(packed.seconds), 1),
        "padded_ms": round(1e3 * statistics.median(padded.seconds), 1),
        "tokens_per_s": round(sum(packed.tokens) / sum(packed.seconds)),
        "useful_tflops": round(sum(packed.flops) / sum(packed.seconds) / 1e12, 3),
    }
    peaks = {"packed_gb": packed.peak, "padded_gb": padded.peak}
    return row | {name: round(peak / GB, 2) for name, peak in peaks.items() if peak is not None}


def steps_of(case: Case, way: str, device: torch.device, steps: int) -> dict[str, Steps]:
    """Trains a new model `steps` steps for each distribution of lengths, after one that is not counted."""
    wrap, parts = WAYS[way]
    policy = random_policy(case, device)
    # Before the engine spreads the weights.
    shape = matmul_shape(policy)
    settings = OptimisationConfig(
        per_device_train_batch_size=PAIRS // parts,
        gradient_accumulation_steps=parts,
        deepspeed=DeepSpeedConfig(stage=case.stage),
    )
    engine = DeepSpeedEngine(wrap(policy), settings, trained=policy)
    engine.model.train()
    try:
        return {
            lengths: measured_steps(engine, shape, [case.pairs(lengths, seed) for seed in range(steps)], parts)
            for lengths in LENGTHS
        }
    finally:
        engine.close()
        del engine, policy
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def random_policy(case: Case, device: torch.device) -> torch.nn.Module:
    """Made where it is trained: a 7B model is not made twice."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(case.config, dtype=torch.bfloat16)
        policy: torch.nn.Module = model if case.lora is None else attach_adapter(model, case.lora, seed=0)
    return policy


def measured_steps(engine: DeepSpeedEngine, shape: MatmulShape, batches: Sequence[list[Tree]], parts: int) -> Steps:
    """One optimiser step for each batch; the first is stepped through once more, before."""
    device, seconds = engine.device, []
    step(engine, batches[0], parts)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for trees in batches:
        started = _now(device)
        step(engine, trees, parts)
        seconds.append(_now(device) - started)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    rows = [tree_batch(trees) for trees in batches]
    flops = [step_flops(shape, row.layout, len(row.targets)) for row in rows]
    return Steps(seconds, [row.layout.num_tokens for row in rows], flops, peak)


def step(engine: DeepSpeedEngine, trees: Sequence[Tree], parts: int) -> None:
    """Forward and backward pass of every micro-batch, and the optimiser's step after the last."""
    size = len(trees) // parts
    for start in range(0, len(trees), size):
        batch = preference_batch(trees[start : start + size], engine.device)
        engine.micro_step(preference_micro_batch(engine.model, batch, SETTINGS).loss, learning_rate=LEARNING_RATE)


def preference_batch(trees: Sequence[Tree], device: torch.device) -> PreferenceBatch:
    """A cached reference of zero, and no margin: the same operations as any other numbers."""
    logps = torch.zeros(len(trees), dtype=torch.float64, device=device)
    rewards = torch.zeros(len(trees), len(SETTINGS.weights), dtype=torch.float64, device=device)
    return PreferenceBatch(tree_batch(trees).to(device), PairLogps(logps, logps), PairRewards(rewards, rewards))


def _now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
