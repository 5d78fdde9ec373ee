"""Whether a sweep fits the memory of its devices and the disk that it is stored on: refusals, with what would fit."""

from __future__ import annotations

from collections.abc import Iterator

from modpo.config.tree import SweepConfig
from modpo.core.memory import ModelTensors, Partition, RankMemory, rank_memory
from modpo.errors import Problem, SetupError
from modpo.orchestration.resources import ResourcePlan

GIB = 2**30


def known_tensors(config: SweepConfig, *, path: str | None = None) -> ModelTensors | None:
    """Sizes of the policy's tensors, None where the model's config does not tell them."""
    # transformers takes seconds to import.
    from modpo.models import policy_tensors

    try:
        return policy_tensors(config.model, path=path)
    except (OSError, ValueError, AttributeError):
        return None


def check_fit(config: SweepConfig, resources: ResourcePlan) -> None:
    """Whether the workers' devices hold what they will surely have to; only where their memory is known.

    Raises:
        SetupError: they do not.
    """
    if resources.device_gib is None:
        return
    tensors = known_tensors(config)
    problems = [] if tensors is None else list(check_device_memory(config, tensors, resources.device_gib))
    if problems:
        raise SetupError(problems)


def micro_batch_tokens(config: SweepConfig) -> int:
    """Tokens of a micro-batch at most: both responses of each pair behind a prompt of their own."""
    return config.training.per_device_train_batch_size * 2 * config.data.max_length


def partition(config: SweepConfig, *, stage: int | None = None) -> Partition:
    """How the trials of a sweep are spread over their workers, or would be under another ZeRO stage."""
    deepspeed = config.training.deepspeed
    return Partition(
        stage=deepspeed.stage if stage is None else stage,
        world_size=config.resources.num_workers,
        offload_optimizer=deepspeed.offload.optimizer,
        offload_parameters=deepspeed.offload.parameters,
    )


def memory_by_stage(config: SweepConfig, tensors: ModelTensors) -> dict[int, RankMemory]:
    """What each rank takes under every ZeRO stage."""
    return {stage: _memory(config, tensors, partition(config, stage=stage)) for stage in range(4)}


def check_device_memory(config: SweepConfig, tensors: ModelTensors, device_gib: float) -> Iterator[Problem]:
    """A model whose weights, gradients and optimiser alone are more than a device holds.

    Args:
        device_gib: memory that one worker has on its device.
    """
    memory = _memory(config, tensors, partition(config))
    if memory.states <= device_gib * GIB:
        return
    yield Problem(
        code="MS-405",
        what="a worker's share of the model does not fit the memory of its device",
        where="training.deepspeed.stage",
        got=f"{memory.states / GIB:.1f} GiB of weights, gradients and optimiser at stage {partition(config).stage} "
        f"with {config.resources.num_workers} worker(s)",
        wanted=f"less than {device_gib:.1f} GiB",
        remedy=_what_would_fit(config, tensors, device_gib),
    )


def warn_of_activations(config: SweepConfig, tensors: ModelTensors, device_gib: float) -> Iterator[str]:
    """A batch whose activations may be too large for what the model leaves free: they are estimated."""
    memory = _memory(config, tensors, partition(config))
    if memory.states <= device_gib * GIB < memory.total:
        yield (
            f"a step may need {memory.total / GIB:.1f} GiB, and the device has {device_gib:.1f}: "
            f"{memory.activations / GIB:.1f} of them are activations of the longest batch; lower "
            "training.per_device_train_batch_size and raise gradient_accumulation_steps as much, or set "
            "training.gradient_checkpointing"
        )


def check_disk(needed: int, free: int, *, where: str) -> Iterator[Problem]:
    """More bytes to be written than the disk has left.

    Args:
        free: bytes that are free, and those that this run has written already.
    """
    if needed <= free:
        return
    yield Problem(
        code="MS-407",
        what="the storage path has too little space for the sweep",
        where=where,
        got=f"{free / GIB:.1f} GiB free",
        wanted=f"about {needed / GIB:.1f} GiB",
        remedy="free some, choose another storage_path, or train fewer points",
    )


def _memory(config: SweepConfig, tensors: ModelTensors, spread: Partition) -> RankMemory:
    checkpointing = config.training.gradient_checkpointing
    return rank_memory(tensors, spread, tokens=micro_batch_tokens(config), checkpointing=checkpointing)


def _what_would_fit(config: SweepConfig, tensors: ModelTensors, device_gib: float) -> str:
    """The mildest change after which the states fit."""
    workers = config.resources.num_workers
    ways = [(f"set training.deepspeed.stage to {stage}", Partition(stage, workers)) for stage in (1, 2, 3)]
    ways += [
        ("set training.deepspeed to stage 2 with offload.optimizer", Partition(2, workers, offload_optimizer=True)),
        (
            "set training.deepspeed to stage 3 with offload of optimizer and parameters",
            Partition(3, workers, offload_optimizer=True, offload_parameters=True),
        ),
    ]
    for words, way in ways:
        if _memory(config, tensors, way).states <= device_gib * GIB:
            return words
    if config.model.lora is None:
        return "train an adapter (model.lora), take more workers a trial under stage 3, or larger GPUs"
    return "take more workers a trial under stage 3, model.load_in_4bit, or larger GPUs"
