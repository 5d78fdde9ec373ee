"""What a point leaves behind: the base untouched, weights that load, no trace of a divergence, a clean process."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from modpo.artifacts import folder_digest
from modpo.errors import TrialError
from modpo.ledger import final_dir
from modpo.models import load_model, trained_model
from modpo.scoring import ResponseModel
from modpo.training.engine import DeepSpeedEngine
from modpo.training.point import save_final, train_point
from modpo.training.step import MicroBatch, MicroBatchResult, TrainEngine
from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import (
    KINDS,
    LORA,
    STAGES,
    Outcome,
    annotated_pairs,
    build_engine,
    point_work,
    sweep_config,
    train_to_end,
)

Trajectory = Callable[[str, int], Outcome]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_under_an_adapter_keeps_every_bit_and_has_no_optimiser_state(
    run_dir: Path, tmp_path: Path, accept: Accept, dtype: str, stage: int
):
    config = sweep_config(run_dir, dtype=dtype, lora=LORA, deepspeed={"stage": stage}, weight_decay=0.1, max_steps=5)
    start = load_model(config.model, path=str(run_dir / "start")).state_dict()
    frozen: dict[str, torch.Tensor] = {}
    with_gradient: list[str] = []
    stepped: list[int] = []

    def look(engine: TrainEngine) -> None:
        assert isinstance(engine, DeepSpeedEngine)
        for name, parameter in engine.module.named_parameters():
            if "lora_" in name:
                continue
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
                frozen[plain] = parameter.detach().clone()
            if parameter.requires_grad or parameter.grad is not None:
                with_gradient.append(plain)
        stepped.extend(state["exp_avg"].numel() for state in engine._inner_optimizer().state.values())

    outcome = train_to_end(run_dir, config, tmp_path, look=look)
    accept("D1", "frozen numbers that differ in a bit", differing(frozen, start), at_most=0)
    accept("D1", "frozen tensors with a gradient", len(with_gradient), at_most=0)
    adapter = sum(value.numel() for value in outcome.parameters.values())
    assert sum(stepped) >= adapter
    # ZeRO pads its flat partitions by a few elements.
    accept("D1", "numbers of optimiser state beyond the adapter's", sum(stepped) - adapter, at_most=64 if stage else 0)
    assert all(name.rsplit(".", 3)[1] in {"lora_A", "lora_B"} for name in outcome.parameters)
    assert all(bool(values.any()) for values in outcome.parameters.values())


def trained_files(run_dir: Path, place: Path, *, weights: tuple[float, ...] = (0.5, 0.5), seed: int = 0) -> Path:
    """The final folder of a whole point, trained in a run directory of its own."""
    config = sweep_config(run_dir, lora={"r": 4, "lora_dropout": 0.1}, max_steps=8)
    work = point_work(run_dir, config, weights=weights, seed=seed).model_copy(update={"run_dir": str(place)})
    assert train_point(work) == 8
    assert work.trial is not None
    return final_dir(place, work.trial)


def adapter(final: Path) -> dict[str, torch.Tensor]:
    return load_file(final / "adapter_model.safetensors")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(run_dir: Path, tmp_path: Path, accept: Accept):
    first = trained_files(run_dir, tmp_path / "first")
    torch.rand(3)  # whatever else the process drew meanwhile must not matter
    second, third = trained_files(run_dir, tmp_path / "second"), trained_files(run_dir, tmp_path / "third", seed=1)
    accept("D7", "numbers that differ in a bit", differing(adapter(first), adapter(second)), at_most=0)
    assert folder_digest(second) == folder_digest(first)
    assert differing(adapter(first), adapter(third)) > 0


def test_weight_vectors_share_their_first_state_and_their_data_order(run_dir: Path, tmp_path: Path, accept: Accept):
    config = sweep_config(run_dir, lora=LORA, max_steps=8)
    first_states: list[dict[str, torch.Tensor]] = []
    orders: list[list[list[int]]] = []
    for weights in ((0.5, 0.5), (0.8, 0.2)):
        order: list[list[int]] = []

        def around(plain: MicroBatch, order: list[list[int]] = order) -> MicroBatch:
            def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
                if not order:
                    state = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
                    first_states.append({**state, "random state": torch.get_rng_state()})
                order.append(rows)
                return plain(model, rows)

            return micro_batch

        train_to_end(run_dir, config, tmp_path / str(weights), weights=weights, micro_batch=around)
        orders.append(order)
    accept("D7", "numbers of the first state that differ in a bit", differing(*first_states), at_most=0)
    elsewhere = sum(one != other for one, other in zip(*orders, strict=True))
    accept("D7", "batches of other pairs, or in another order", elsewhere, at_most=0)
    assert len(orders[0]) == 8 and len(set(map(tuple, orders[0]))) == 8


def test_an_engine_starts_with_the_adapter_of_its_seed(run_dir: Path, accept: Accept):
    """A is drawn and B is zero, so that the policy starts at the reference."""
    config = sweep_config(run_dir, lora=LORA)
    drawn = []
    for seed in (0, 0, 1):
        engine = build_engine(config, str(run_dir / "start"), seed=seed)
        drawn.append(engine.parameters())
        engine.close()
    accept("D7", "numbers of the first adapter that differ in a bit", differing(drawn[0], drawn[1]), at_most=0)
    assert differing(drawn[0], drawn[2]) > 0
    assert all(bool(values.any()) == ("lora_A" in name) for name, values in drawn[0].items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-12)])
def test_saved_weights_reload_to_the_log_probabilities_of_the_engine(
    run_dir: Path, tmp_path: Path, accept: Accept, kind: str, dtype: str, tolerance: float
):
    """In bfloat16 too: the forward pass uses the rounded weights, and those are the ones that are saved."""
    config = sweep_config(run_dir, dtype=dtype, lora=KINDS[kind], max_steps=4)
    data = annotated_pairs(run_dir, point_work(run_dir, config))
    batch = data.batch(range(8), torch.device("cpu")).trees
    logps: list[torch.Tensor] = []

    def look(engine: TrainEngine) -> None:
        engine.model.eval()
        with torch.no_grad():
            logps.append(engine.model(batch))
        save_final(engine, tmp_path / "final", {})

    train_to_end(run_dir, config, tmp_path / "checkpoints", look=look)
    difference = reloaded_difference(run_dir, dtype, tmp_path / "final", logps[0])
    accept("D9", f"difference of log-probabilities in nats, {dtype}", difference, at_most=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_saved_by_two_workers_under_zero_3_reload_to_their_log_probabilities(
    run_dir: Path, two_workers: Path, accept: Accept, kind: str
):
    folder = two_workers / f"final-{kind}"
    logps = load_file(folder / "logps.safetensors")["logps"]
    difference = reloaded_difference(run_dir, "float32", folder / "final", logps)
    accept("D9", "difference of log-probabilities in nats, float32", difference, at_most=1e-5)


def reloaded_difference(run_dir: Path, dtype: str, final: Path, logps: torch.Tensor) -> float:
    """Largest difference in nats between log-probabilities of the first eight pairs and those of a saved policy.

    The given ones must be far from the reference's, or weights that were never loaded would go unnoticed.
    """
    config = sweep_config(run_dir, dtype=dtype)
    data = annotated_pairs(run_dir, point_work(run_dir, config))
    batch = data.batch(range(8), torch.device("cpu"))
    reference = torch.stack([batch.reference.chosen, batch.reference.rejected], dim=1).flatten()
    assert float((logps - reference).abs().max()) > 0.1
    base = load_model(config.model, path=str(run_dir / "start"))
    with trained_model(base, config.model, final) as trained, torch.no_grad():
        reloaded = ResponseModel(trained.policy, longest=config.longest_sequence)(batch.trees)
    return float((reloaded - logps).abs().max())


def break_third_call(broken: Callable[[torch.nn.Module, MicroBatchResult], MicroBatchResult]) -> Any:
    """Puts a fault into the third micro-batch."""

    def around(plain: MicroBatch) -> MicroBatch:
        calls: list[int] = []

        def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
            calls.append(1)
            result = plain(model, rows)
            return broken(model, result) if len(calls) == 3 else result

        return micro_batch

    return around


def infinite_loss(model: torch.nn.Module, result: MicroBatchResult) -> MicroBatchResult:
    loss = result.loss * float("inf")
    return MicroBatchResult(loss, {**result.metrics, "loss": loss.detach()})


def nan_gradient(model: torch.nn.Module, result: MicroBatchResult) -> MicroBatchResult:
    """The loss stays as it is: sqrt at 0 has an infinite slope, and 0 times infinity is no number."""
    return MicroBatchResult(result.loss + (result.loss * 0).sqrt(), result.metrics)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("trained", [("lora", "float32"), ("full", "float32"), ("full", "bfloat16")], ids="-".join)
@pytest.mark.parametrize(
    ("fault", "what"), [(infinite_loss, "loss and optim/grad_norm"), (nan_gradient, "optim/grad_norm")]
)
def test_a_divergence_ends_the_trial_and_leaves_no_checkpoint_of_itself(
    run_dir: Path, tmp_path: Path, trained: tuple[str, str], stage: int, fault: Any, what: str
):
    kind, dtype = trained
    config = sweep_config(run_dir, dtype=dtype, lora=KINDS[kind], deepspeed={"stage": stage}, save_steps=1)
    with pytest.raises(TrialError) as failure:
        train_to_end(run_dir, config, tmp_path, micro_batch=break_third_call(fault))
    problem = failure.value.problems[0]
    assert (problem.code, problem.what) == ("MS-501", f"{what} not finite at step 3")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step_000001", "step_000002"]


def test_two_workers_end_together_when_one_diverges(two_workers: Path):
    """Only rank 1 had a loss that is not finite."""
    codes = json.loads((two_workers / "lone-nan" / "errors.json").read_text(encoding="utf-8"))
    assert codes == ["loss and optim/grad_norm not finite at step 3"] * 2
    checkpoints = two_workers / "lone-nan" / "checkpoints"
    assert sorted(folder.name for folder in checkpoints.iterdir()) == ["step_000001", "step_000002"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_closed_engine_leaves_the_process_as_it_was(run_dir: Path, tmp_path: Path, stage: int):
    """A slot trains many points in one process: models must not pile up, nor may ZeRO 3 keep its own `linear`."""
    linear = functional.linear
    modules: list[weakref.ref[torch.nn.Module]] = []
    config = sweep_config(run_dir, lora=LORA, deepspeed={"stage": stage}, max_steps=2)
    train_to_end(run_dir, config, tmp_path, look=lambda engine: modules.append(weakref.ref(engine.module)))
    gc.collect()
    assert functional.linear is linear
    assert modules[0]() is None


def test_a_point_after_zero_3_in_the_same_process_has_the_same_bytes(
    run_dir: Path, tmp_path: Path, trajectory: Trajectory
):
    before = trained_files(run_dir, tmp_path / "before")
    trajectory("lora", 3)
    assert folder_digest(trained_files(run_dir, tmp_path / "after")) == folder_digest(before)
