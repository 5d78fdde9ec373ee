"""Adapters on frozen weights in 4 bits: what is quantised, one set of weights for all that is scored, resumed runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from modpo.config import SweepConfig
from modpo.errors import InternalError
from modpo.models import load_model, make_sequences, save_trained, sequence_logps, to_device, trained_model
from modpo.training.point import LOGPS_TOLERANCE_PER_TOKEN
from modpo.training.sft import train_sft
from modpo.training.step import TrainEngine
from modpo.utilisation import matmul_shape
from tests.acceptance.bits import differing
from tests.deepspeed.trainings import (
    DROPOUT_LORA,
    LORA,
    annotate,
    gap_to,
    measured_gap,
    sft_work,
    sweep_config,
    train_interrupted,
    train_to_end,
    worst_relative,
)

TOLERANCE = 1e-4
PROMPTS, RESPONSES = [[5, 6, 7], [8, 9]], [[14, 15, 2], [16, 2]]


@pytest.fixture(autouse=True)
def gradients_in_4_bits(device: torch.device) -> Iterator[None]:
    """bitsandbytes, without what it does on a CPU and makes a training there wrong: docs/concepts.md."""
    modules = pytest.importorskip("bitsandbytes.nn.modules", reason="bitsandbytes is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if device.type == "cpu":
            patch.setattr(modules, "has_avx512bf16", lambda: False)
        yield


def four_bits(run_dir: Path, *, dtype: str = "float32", **settings: Any) -> SweepConfig:
    """float32 products: what is compared here is not what bfloat16 rounds."""
    return sweep_config(run_dir, dtype=dtype, load_in_4bit=True, **{"lora": LORA, **settings})


def start_model(run_dir: Path, config: SweepConfig, device: torch.device) -> PreTrainedModel:
    return load_model(config.model, path=str(run_dir / "start")).to(device)


@torch.no_grad()
def logps(model: torch.nn.Module, device: torch.device) -> torch.Tensor:
    batch = to_device(make_sequences(PROMPTS, RESPONSES, pad_token_id=0), device)
    return sequence_logps(model, batch)


def stored_bytes(model: torch.nn.Module) -> int:
    """Of the linear layers that are quantised, or would be."""
    layers = [parameter for name, parameter in model.named_parameters() if name.endswith("_proj.weight")]
    return sum(parameter.numel() * parameter.element_size() for parameter in layers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_layers_take_a_quarter_and_the_rest_keeps_its_precision(
    run_dir: Path, device: torch.device, dtype: str
) -> None:
    config, whole = (sweep_config(run_dir, dtype=dtype, lora=LORA, load_in_4bit=four) for four in (True, False))
    model, plain = start_model(run_dir, config, device), start_model(run_dir, whole, device)
    assert stored_bytes(model) == stored_bytes(plain) / {"float32": 8, "bfloat16": 4}[dtype]
    others = {p.dtype for name, p in model.named_parameters() if not name.endswith("_proj.weight")}
    assert others == {plain.dtype} == {model.dtype}
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert 0.001 < float((logps(model, device) - logps(plain, device)).abs().max()) < 2
    assert matmul_shape(model).layers == matmul_shape(plain).layers, "as many multiplications, whatever is stored"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reference_is_the_model_in_4_bits(run_dir: Path, tmp_path: Path, dtype: str) -> None:
    """A table of the unquantised start model is another model's."""
    config = four_bits(run_dir, dtype=dtype)
    gap = measured_gap(run_dir, config, tmp_path / "reference", start_model=run_dir / "start")
    print(f"{dtype}: {gap:.1e} nats per token")
    assert gap <= LOGPS_TOLERANCE_PER_TOKEN[dtype] / 5


def test_the_table_of_whole_weights_is_refused(run_dir: Path, tmp_path: Path) -> None:
    whole = sweep_config(run_dir, lora=LORA)
    annotate(run_dir, whole, kind="reference", output=tmp_path / "reference")
    with pytest.raises(InternalError, match="MS-602"):
        gap_to(run_dir, four_bits(run_dir), tmp_path / "reference")


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_resumed_training_goes_on_where_it_was_and_leaves_the_base_as_it_is(
    run_dir: Path, tmp_path: Path, device: torch.device, stage: int
) -> None:
    config = four_bits(run_dir, lora=DROPOUT_LORA, deepspeed={"stage": stage}, max_steps=12, save_steps=6)
    frozen = dict(start_model(run_dir, config, device).named_parameters())
    seen: dict[str, torch.dtype] = {}

    def look(engine: TrainEngine) -> None:
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                seen[name] = parameter.dtype
            else:
                plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
                assert torch.equal(parameter, frozen[plain]), name

    undisturbed = train_to_end(run_dir, config, tmp_path / "undisturbed", look=look)
    assert set(seen.values()) == {torch.float32} and all("lora_" in name for name in seen)
    train_interrupted(run_dir, config, tmp_path / "resumed", step=9)
    resumed = train_to_end(run_dir, config, tmp_path / "resumed")
    assert worst_relative(resumed.losses, undisturbed.losses[6:]) <= TOLERANCE
    if device.type == "cpu":
        assert differing(resumed.parameters, undisturbed.parameters) == 0


def test_every_stage_and_checkpointing_give_the_losses_of_plain_deepspeed(run_dir: Path, tmp_path: Path) -> None:
    plain = train_to_end(run_dir, four_bits(run_dir), tmp_path / "plain").losses
    changes: dict[str, dict[str, Any]] = {
        "zero-1": {"deepspeed": {"stage": 1}},
        "zero-2": {"deepspeed": {"stage": 2}},
        "checkpointing": {"gradient_checkpointing": True},
    }
    for name, change in changes.items():
        losses = train_to_end(run_dir, four_bits(run_dir, **change), tmp_path / name).losses
        assert worst_relative(losses, plain) <= TOLERANCE, name
    assert sum(plain[-5:]) < sum(plain[:5])


def test_a_stored_adapter_goes_back_into_the_base(run_dir: Path, tmp_path: Path, device: torch.device) -> None:
    """As for an implicit reward and a measurement: what was trained, and afterwards the base as it was."""
    config = four_bits(run_dir)
    trained: list[torch.Tensor] = []

    def look(engine: TrainEngine) -> None:
        engine.module.eval()
        trained.append(logps(engine.module, device))
        save_trained(engine.module, tmp_path / "adapter", engine.parameters())

    train_to_end(run_dir, config, tmp_path / "checkpoints", look=look)
    base = start_model(run_dir, config, device)
    before = logps(base, device)
    with trained_model(base, config.model, tmp_path / "adapter") as models:
        torch.testing.assert_close(logps(models.policy, device), trained[0], rtol=0, atol=1e-4)
        with models.reference() as reference:
            torch.testing.assert_close(logps(reference, device), before, rtol=0, atol=1e-4)
    assert float((trained[0] - before).abs().max()) > 1e-2
    torch.testing.assert_close(logps(base, device), before, rtol=0, atol=1e-4)


def test_supervised_fine_tuning_leaves_a_whole_model(run_dir: Path, tmp_path: Path, device: torch.device) -> None:
    """The adapter is trained on 4 bits and merged into the weights of the disk, in their own precision."""
    config = four_bits(run_dir)
    assert config.sft is not None
    sft = config.sft.model_copy(update={"lora": config.model.lora, "max_steps": 5})
    work = sft_work(run_dir, config.model_copy(update={"sft": sft}), output=tmp_path / "start")
    train_sft(work.model_copy(update={"run_dir": str(tmp_path)}))
    stored = load_file(tmp_path / "start" / "model.safetensors")
    on_disk = load_file(Path(config.model.name_or_path) / "model.safetensors")
    assert stored.keys() == on_disk.keys()
    moved = [name for name, value in stored.items() if not torch.equal(value, on_disk[name])]
    assert moved and all(name.endswith("_proj.weight") for name in moved)
    again = load_model(config.model, path=str(tmp_path / "start")).to(device)
    assert stored_bytes(again) == stored_bytes(start_model(run_dir, config, device))
