"""Tokens and operations of real trainings, counted again pair by pair, over splits, workers and lost processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from modpo.config import SweepConfig
from modpo.core.trees import Tree
from modpo.core.workload import StepTotals
from modpo.training.loop import Hook, Progress
from modpo.training.schedule import SampleOrder
from tests.deepspeed.trainings import (
    GLOBAL_BATCH_SIZE,
    LORA,
    PEAK,
    annotated_pairs,
    one_pair_a_prompt,
    point_work,
    sweep_config,
    train_interrupted,
    train_to_end,
)
from tests.deepspeed.two_workers import ACCOUNTED_STEPS, restore


def counts(totals: StepTotals) -> tuple[int | None, int | None, int | None]:
    return totals.tokens, totals.padded_tokens, totals.flops


def batches(run_dir: Path, config: SweepConfig, num_steps: int) -> Iterator[list[Tree]]:
    data = annotated_pairs(run_dir, point_work(run_dir, config))
    order = SampleOrder(len(data), seed=0)
    for step in range(num_steps):
        yield data.table.trees(data.rows[order.indices(step * GLOBAL_BATCH_SIZE, GLOBAL_BATCH_SIZE)])


def sequences(pairs: list[Tree]) -> list[tuple[int, int]]:
    """Lengths of prompt and response."""
    return [(len(pair.prompt_ids), len(ids)) for pair in pairs for ids in pair.response_ids]


def test_a_full_training_by_hand(run_dir: Path, tmp_path: Path) -> None:
    """Forward, input gradients and weight gradients: six operations a weight and token, twelve a key seen and head."""
    config = sweep_config(run_dir, max_steps=4)
    outcome = train_to_end(run_dir, config, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(run_dir / "start")
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    attention = model.config.hidden_size * model.config.num_hidden_layers
    tokens = padded = flops = 0
    for pairs in batches(run_dir, config, 4):
        row = sum(len(prompt) for prompt in {pair.prompt_ids for pair in pairs})
        row += sum(response for _, response in sequences(pairs))
        keys = sum(n * (n + 1) // 2 for n in (len(prompt) for prompt in {pair.prompt_ids for pair in pairs}))
        keys += sum(prompt + seen for prompt, response in sequences(pairs) for seen in range(1, response + 1))
        targets = sum(response for _, response in sequences(pairs))
        tokens += row
        padded += len(sequences(pairs)) * max(prompt + response for prompt, response in sequences(pairs))
        flops += 6 * (linear * row + head.weight.numel() * targets) + 12 * attention * keys
    assert counts(outcome.totals) == (tokens, padded, flops)


@pytest.fixture(scope="module")
def one_worker_totals(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> StepTotals:
    config = sweep_config(run_dir, lora=LORA, max_steps=ACCOUNTED_STEPS)
    data = one_pair_a_prompt(annotated_pairs(run_dir, point_work(run_dir, config)))
    assert len(data) >= ACCOUNTED_STEPS * GLOBAL_BATCH_SIZE, "a second pass would bring prompts together again"
    return train_to_end(run_dir, config, tmp_path_factory.mktemp("whole"), rows=one_pair_a_prompt).totals


def test_micro_batches_change_no_token_and_no_operation(
    run_dir: Path, tmp_path: Path, one_worker_totals: StepTotals
) -> None:
    config = sweep_config(
        run_dir, lora=LORA, max_steps=ACCOUNTED_STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    split = train_to_end(run_dir, config, tmp_path, rows=one_pair_a_prompt).totals
    assert (split.tokens, split.flops) == (one_worker_totals.tokens, one_worker_totals.flops)
    assert split.padded_tokens is not None and one_worker_totals.padded_tokens is not None
    assert split.padded_tokens < one_worker_totals.padded_tokens, "a smaller batch is padded to a shorter sequence"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_workers_do_the_work_of_one_together(
    two_workers: Path, one_worker_totals: StepTotals, accumulation: int
) -> None:
    both = restore(two_workers / f"accounts-{accumulation}").totals
    assert (both.tokens, both.flops) == (one_worker_totals.tokens, one_worker_totals.flops)


def test_a_lost_step_is_counted_once_and_its_time_is_not_forgotten(run_dir: Path, tmp_path: Path) -> None:
    """Steps 5 and 6 are taken twice. What they computed counts once, in the run that was kept."""
    config = sweep_config(run_dir, lora=LORA, max_steps=8, save_steps=4)
    undisturbed = train_to_end(run_dir, config, tmp_path / "undisturbed").totals
    seen: list[StepTotals] = []

    def watch(progress: Progress) -> bool:
        seen.append(progress.totals)
        return False

    train_interrupted(run_dir, config, tmp_path / "resumed", step=6)
    resumed = train_to_end(run_dir, config, tmp_path / "resumed", hooks=[Hook(1, watch)]).totals
    assert counts(resumed) == counts(undisturbed)
    device_seconds = [totals.device_seconds or 0.0 for totals in seen]
    assert device_seconds == sorted(device_seconds) and device_seconds[0] > 0
    assert len(seen) == 4, "the totals of the first of them hold those of the four steps before"
    assert seen[0].tokens is not None and resumed.tokens is not None
    assert seen[0].tokens > resumed.tokens / 2


def test_rates_of_every_step_follow_from_its_counts(run_dir: Path, tmp_path: Path) -> None:
    rates: list[dict[str, float]] = []
    totals: list[StepTotals] = [StepTotals()]

    def watch(progress: Progress) -> bool:
        rates.append(progress.metrics)
        totals.append(progress.totals)
        return False

    train_to_end(run_dir, sweep_config(run_dir, lora=LORA, max_steps=3), tmp_path, hooks=[Hook(1, watch)])
    for number, metrics in enumerate(rates):
        before, after = totals[number : number + 2]
        seconds = metrics["perf/step_s"]
        tokens = (after.tokens or 0) - (before.tokens or 0)
        flops = (after.flops or 0) - (before.flops or 0)
        assert metrics["perf/tokens_per_s"] * seconds == pytest.approx(tokens)
        assert metrics["perf/flops_per_s"] * seconds == pytest.approx(flops)
        assert metrics["perf/mfu"] * PEAK == pytest.approx(metrics["perf/flops_per_s"])
        assert metrics["perf/padded_ratio"] >= 1
    assert totals[-1].device_seconds == pytest.approx(sum(metrics["perf/step_s"] for metrics in rates))


def test_the_step_that_a_hook_ends_a_training_with_is_seen_by_all_hooks(run_dir: Path, tmp_path: Path) -> None:
    """A regression: rows of metrics and the ledger ended at the last step that was due anyway."""
    seen: list[int] = []

    def watch(progress: Progress) -> bool:
        seen.append(progress.step)
        return False

    hooks = [Hook(2, watch), Hook(1, lambda progress: progress.step == 3)]
    outcome = train_to_end(run_dir, sweep_config(run_dir, lora=LORA), tmp_path, hooks=hooks)
    assert (outcome.steps, seen) == (3, [2, 3])
