"""The engine on a GPU: one worker under NCCL, every ZeRO stage, bfloat16, resumed trainings, samples, measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from modpo.config import SweepConfig
from modpo.data.prepared import read_held_out
from modpo.data.tokenize import load_tokenizer
from modpo.evaluation.generate import Sample, sample_responses
from modpo.models import load_model
from modpo.training.engine import DeepSpeedEngine
from modpo.training.point import LOGPS_TOLERANCE_PER_TOKEN
from modpo.training.step import TrainEngine
from tests.deepspeed.bare_loop import bare_training
from tests.deepspeed.trainings import (
    DROPOUT_LORA,
    KINDS,
    LORA,
    STAGES,
    Outcome,
    measured_gap,
    sweep_config,
    train_interrupted,
    train_to_end,
    worst_relative,
)
from tests.deepspeed.whole_sweeps import measure_trial, open_run, train_trial
from tests.sweeps import world_sweep

Trajectory = Callable[[str, int], Outcome]

# On the CPU 1e-5 holds; a GPU adds in an order of its own, another one at every start.
TOLERANCE = 1e-4


def test_one_worker_under_nccl(gpu: torch.device, run_dir: Path, tmp_path: Path) -> None:
    seen: list[object] = []

    def look(engine: TrainEngine) -> None:
        assert isinstance(engine, DeepSpeedEngine)
        seen.extend([dist.get_backend(), engine.device, {p.device for p in engine.model.parameters()}])

    train_to_end(run_dir, sweep_config(run_dir, lora=LORA, max_steps=2), tmp_path, look=look)
    assert seen == ["nccl", gpu, {gpu}]


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_a_bare_torch_loop(run_dir: Path, trajectory: Trajectory, kind: str) -> None:
    """Written out in float64, sequence by sequence with full logits, on the same device."""
    bare, outcome = bare_training(run_dir, sweep_config(run_dir, lora=KINDS[kind])), trajectory(kind, 0)
    assert worst_relative(outcome.losses, bare.losses) <= TOLERANCE
    assert worst_relative(outcome.grad_norms, bare.grad_norms) <= TOLERANCE


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_every_zero_stage_gives_the_same_losses(trajectory: Trajectory, kind: str, stage: int) -> None:
    outcome, plain = trajectory(kind, stage), trajectory(kind, 0)
    assert worst_relative(outcome.losses, plain.losses) <= TOLERANCE
    assert worst_relative(outcome.grad_norms, plain.grad_norms) <= TOLERANCE


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_learns_what_float32_learns(
    run_dir: Path, tmp_path: Path, trajectory: Trajectory, kind: str, stage: int
) -> None:
    """The means of the first and of the last five steps; single steps differ by what bfloat16 rounds."""
    config = sweep_config(run_dir, dtype="bfloat16", lora=KINDS[kind], deepspeed={"stage": stage})
    rounded, exact = train_to_end(run_dir, config, tmp_path).losses, trajectory(kind, 0).losses
    (first, last), (exact_first, exact_last) = ends(rounded), ends(exact)
    print(f"{kind}, ZeRO {stage}: {first:.3f} to {last:.3f}, in float32 {exact_first:.3f} to {exact_last:.3f}")
    assert last < first
    assert first == pytest.approx(exact_first, rel=0.05) and last == pytest.approx(exact_last, rel=0.05)


def ends(losses: list[float]) -> tuple[float, float]:
    return statistics.mean(losses[:5]), statistics.mean(losses[-5:])


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_model_reproduces_its_reference_table(
    run_dir: Path, tmp_path: Path, dtype: str, kind: str, stage: int
) -> None:
    config = sweep_config(run_dir, dtype=dtype, lora=KINDS[kind], deepspeed={"stage": stage})
    gap = measured_gap(run_dir, config, tmp_path / "reference", start_model=run_dir / "start")
    print(f"{dtype} {kind}, ZeRO {stage}: {gap:.1e} nats per token")
    assert gap <= LOGPS_TOLERANCE_PER_TOKEN[dtype] / 5, "docs/concepts.md promises a margin"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_lost_worker_goes_on_where_it_was(run_dir: Path, tmp_path: Path, kind: str, stage: int) -> None:
    """Dropout's random numbers come back too: those of the GPU are a stream of their own."""
    lora = {"lora": DROPOUT_LORA, "full": None}[kind]
    config = sweep_config(run_dir, lora=lora, deepspeed={"stage": stage}, max_steps=12, save_steps=6)
    undisturbed = train_to_end(run_dir, config, tmp_path / "undisturbed")
    train_interrupted(run_dir, config, tmp_path / "resumed", step=9)
    resumed = train_to_end(run_dir, config, tmp_path / "resumed")
    assert len(resumed.losses) == 6
    assert worst_relative(resumed.losses, undisturbed.losses[6:]) <= TOLERANCE


class TestSampling:
    @pytest.fixture
    def sample(self, device: torch.device, run_dir: Path) -> Callable[[int], list[Sample]]:
        config = sweep_config(run_dir, dtype="bfloat16")
        model = load_model(config.model, path=str(run_dir / "start")).to(device)
        tokenizer = load_tokenizer(str(run_dir / "prepared" / "tokenizer"))
        prompts = [prompt.prompt_ids for prompt in read_held_out(run_dir / "prepared", limit=8)]

        def draw(seed: int) -> list[Sample]:
            return sample_responses(model, tokenizer, prompts, max_new_tokens=16, batch_size=4, seed=seed)

        return draw

    def test_a_seed_gives_its_samples(self, sample: Callable[[int], list[Sample]]) -> None:
        assert sample(1) == sample(1)
        assert sample(1) != sample(2)

    def test_the_training_s_own_random_numbers_are_left_alone(
        self, device: torch.device, sample: Callable[[int], list[Sample]]
    ) -> None:
        def state() -> torch.Tensor:
            return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

        before = state()
        sample(1)
        assert torch.equal(state(), before)


def test_from_data_to_measured_points(demo_world: Path, one_worker: None, tmp_path: Path) -> None:
    """Every stage with its own models on the device: SFT, annotation, vertices, a point, samples and scores."""
    state = open_run(small_config(demo_world), tmp_path)
    trial = next(trial for trial in state.plan.points if max(trial.weights) < 1)
    train_trial(state, trial)
    measured = measure_trial(state, trial)
    assert measured["kl"]["value"] > 0, "an untrained policy has no KL to its reference"
    assert measured["num_samples"] == 16
    assert all(math.isfinite(estimate["value"]) for estimate in measured["objectives"].values())


def small_config(world: Path) -> SweepConfig:
    """Both rewards implicit, so that annotation and measurement put adapters into the base and take them out."""
    return world_sweep(
        world,
        objectives=[{"name": name, "pairs": {"path": f"demo:{name}.jsonl"}} for name in ("vivid", "brief")],
        model={"name_or_path": "", "dtype": "bfloat16", "lora": LORA},
        sft={"data": {"path": str(world / "corpus.jsonl")}, "max_steps": 5, "per_device_train_batch_size": 16},
        training={"max_steps": 3, "per_device_train_batch_size": 4},
        sweep={"weights": {"lattice": 2}},
        evaluation={"num_prompts": 4, "samples_per_prompt": 4, "max_new_tokens": 12, "bootstrap_resamples": 50},
    )
