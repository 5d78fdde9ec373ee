"""How any of the run's models is optimised: optimiser, schedule, batch sizes and the engine under them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from modpo.config.frozen import Frozen, PathText


class OffloadConfig(Frozen):
    """What DeepSpeed keeps in host memory."""

    optimizer: bool = False
    """Optimiser states (ZeRO 1-3)."""
    parameters: bool = False
    """Parameters (ZeRO 3)."""


class DeepSpeedConfig(Frozen):
    """The engine under the training step."""

    stage: Literal[0, 1, 2, 3] = 0
    """ZeRO stage."""
    offload: OffloadConfig = OffloadConfig()
    """Offload to host memory."""
    config_file: PathText | None = None
    """A DeepSpeed JSON file of your own; batch sizes, clipping and precision still come from the sweep file."""


class OptimisationConfig(Frozen):
    """Optimiser, schedule and batch sizes."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of AdamW."""
    num_train_epochs: PositiveFloat = 1.0
    """Passes over the pairs, where max_steps is left out."""
    max_steps: PositiveInt | None = None
    """Optimiser steps, in place of epochs."""
    per_device_train_batch_size: PositiveInt = 8
    """Pairs (or texts) per worker and micro-batch."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches per optimiser step."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    """Decay after the warm-up, to zero (or none)."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay."""
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """AdamW's second moment decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    logging_steps: PositiveInt = 10
    """Steps between two rows of metrics."""
    save_steps: PositiveInt = 100
    """Steps between two checkpoints: what a lost worker costs at most."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """Engine settings."""
