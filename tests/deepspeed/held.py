"""What the engine really holds in the middle of a step: the bytes of every tensor that is alive."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from modpo.config.optimisation import OptimisationConfig
from modpo.config.tree import LoraConfig, ModelConfig
from modpo.core.memory import REDUCE_BUCKET, ModelTensors, Partition, persistent_bytes, rank_memory
from modpo.models import DTYPES, attach_adapter, policy_tensors
from modpo.training.engine import DeepSpeedEngine

# Weights on both sides of what ZeRO 3 keeps gathered, and such as two ranks do not divide.
SIZES = {"hidden_size": 324, "intermediate_size": 345, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY = 67
SMALL_CHANGE = 1024
"""Bytes of counters, norms and the frequencies of the positions; and AdamW counts the steps of each tensor."""


def llama(folder: Path) -> Path:
    """The folder of a model that has a config and no weights."""
    LlamaConfig(vocab_size=VOCABULARY, **SIZES).save_pretrained(folder)
    return folder


def held_and_expected(kind: str, dtype: str, stage: int) -> tuple[int, int, int]:
    """(bytes held between two micro-batches of a step, what the plan says they are at least, and at most)."""
    with tempfile.TemporaryDirectory() as folder:
        config = ModelConfig(
            name_or_path=str(llama(Path(folder))), dtype=dtype, lora=LoraConfig(r=8) if kind == "lora" else None
        )
        tensors = policy_tensors(config)
        before = _storages()
        engine = _engine(config, stage)
    engine.moments()
    ids = torch.arange(8).reshape(1, -1)
    engine.micro_step(engine.model(input_ids=ids).logits.float().square().mean(), learning_rate=1e-3)
    held = sum(size for place, size in _storages(engine.module).items() if place not in before)
    engine.close()
    return held, *_bounds(tensors, Partition(stage, dist.get_world_size()))


def _bounds(tensors: ModelTensors, partition: Partition) -> tuple[int, int]:
    states = rank_memory(tensors, partition, tokens=0, checkpointing=False).states
    kept = min(REDUCE_BUCKET, tensors.num_trained) * tensors.trained_bytes if partition.stage == 3 else 0
    more = SMALL_CHANGE + 4 * len(tensors.trained)
    if partition.world_size > 1 and partition.stage == 2:
        # A tensor on both sides of the border between two ranks is whole on one of them.
        more += max(tensors.trained) * tensors.trained_bytes
    if partition.world_size > 1 and partition.stage == 3:
        more += persistent_bytes(tensors)
    return states + kept, states + kept + more


def _engine(config: ModelConfig, stage: int) -> DeepSpeedEngine:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(config.name_or_path), dtype=DTYPES[config.dtype]
    )
    policy = model if config.lora is None else attach_adapter(model, config.lora, seed=0)
    settings = OptimisationConfig.model_validate(
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "deepspeed": {"stage": stage}}
    )
    return DeepSpeedEngine(policy, settings)


def _storages(model: torch.nn.Module | None = None) -> dict[int, int]:
    """Bytes of everything that a tensor of this process lies in, by its place."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    # Python sees a gradient only once it is asked for.
    tensors += [p.grad for p in (model.parameters() if model is not None else ()) if p.grad is not None]
    places = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu"]
    return {place.data_ptr(): place.nbytes() for place in places}
