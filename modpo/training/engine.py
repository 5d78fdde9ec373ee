"""DeepSpeed behind a small surface: forward, backward, step, and the full float32 state in and out.

The only file that imports deepspeed. State moves as plain float32 tensors by parameter name, the same in every ZeRO
stage and world size, so that checkpoints need neither DeepSpeed's files nor a pickle.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modpo.config.tree import OptimisationConfig
from modpo.training.deepspeed_config import deepspeed_config

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")

import deepspeed  # noqa: E402  # reads the accelerator from the environment when imported
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer  # noqa: E402
from deepspeed.utils import (  # noqa: E402
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
# Without this, DeepSpeed compiles a shared-memory op on CPU at the first start: a minute, a compiler, and a lock
# file that hangs every later start if the process is killed meanwhile.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedEngine:
    """A model in training under DeepSpeed. Every method must be called by all ranks alike."""

    def __init__(self, model: torch.nn.Module, training: OptimisationConfig) -> None:
        """Takes the model's trainable parameters; torch.distributed must be initialised."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        user = training.deepspeed.config_file
        settings = deepspeed_config(
            training,
            low_precision=trainable[0].dtype == torch.bfloat16,
            user=json.loads(Path(user).read_text(encoding="utf-8")) if user else None,
        )
        optimizer = torch.optim.AdamW(
            trainable,
            lr=training.learning_rate,
            betas=(0.9, training.adam_beta2),
            weight_decay=training.weight_decay,
        )
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=trainable, config=settings, dist_init_required=False
        )
        self._plain_norm = torch.tensor(float("nan"))
        self.world_size, self.rank = dist.get_world_size(), dist.get_rank()

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    @property
    def module(self) -> torch.nn.Module:
        """The model, for saving and sampling; train through `model`."""
        module: torch.nn.Module = self._engine.module
        return module

    @property
    def model(self) -> torch.nn.Module:
        """What to call for a forward pass: DeepSpeed gathers partitioned weights around it."""
        engine: torch.nn.Module = self._engine
        return engine

    def micro_step(self, loss: Tensor, *, learning_rate: float) -> None:
        """Backward pass; at the end of an accumulation also clips and steps at this learning rate."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.backward(loss)
        if self._engine.is_gradient_accumulation_boundary():
            self._plain_norm = self._norm_without_zero()
        self._engine.step()

    def grad_norm(self) -> float:
        """Global gradient norm of the last optimiser step, before clipping."""
        norm = self._engine.get_global_grad_norm()
        return float(self._plain_norm if norm is None else norm)

    def parameters(self) -> dict[str, Tensor]:
        """All trained parameters in full float32, on the CPU, by name."""
        return {name: self._get(parameter).cpu() for name, parameter in self._trainable()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's moments in full float32, on the CPU, as `name.exp_avg` and `name.exp_avg_sq`."""
        return {
            f"{name}.{moment}": self._get(parameter, moment).cpu()
            for name, parameter in self._trainable()
            for moment in MOMENTS
        }

    def load(self, parameters: dict[str, Tensor], moments: dict[str, Tensor], *, num_steps: int) -> None:
        """Puts back what `parameters` and `moments` gave after `num_steps` optimiser steps."""
        for name, parameter in self._trainable():
            self._set(parameter, parameters[name].to(self.device))
            for moment in MOMENTS:
                self._set(parameter, moments[f"{name}.{moment}"].to(self.device), moment)
        for state in self._inner_optimizer().state.values():
            state["step"] = torch.tensor(float(num_steps))
        self._engine.global_steps = num_steps

    def close(self) -> None:
        """Frees what DeepSpeed holds, so that the next point starts in a clean process."""
        self._engine.destroy()

    def _trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def _norm_without_zero(self) -> Tensor:
        """Norm of the reduced gradients; NaN where ZeRO partitions them, since DeepSpeed then reports its own."""
        gradients = [p.grad for _, p in self._trainable() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else torch.tensor(float("nan"))

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = self._engine.optimizer
        inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        return inner

    def _master(self, parameter: torch.nn.Parameter) -> Tensor | None:
        """The optimiser's own float32 tensor where ZeRO is off, None where DeepSpeed's fragment calls are needed."""
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            return None
        optimizer: Any = self._engine.optimizer
        if isinstance(optimizer, FP16_UnfusedOptimizer):
            low = [tensor for group in optimizer.fp16_groups for tensor in group]
            high = [tensor for group in optimizer.fp32_groups for tensor in group]
            return next(h for lo, h in zip(low, high, strict=True) if lo is parameter)
        return parameter

    def _get(self, parameter: torch.nn.Parameter, moment: str | None = None) -> Tensor:
        master = self._master(parameter)
        if master is None:
            value = (
                safe_get_full_fp32_param(parameter)
                if moment is None
                else safe_get_full_optimizer_state(parameter, moment)
            )
        elif moment is None:
            value = master.detach()
        else:
            value = self._inner_optimizer().state[master].get(moment, torch.zeros_like(master))
        return value.detach().float().clone()

    @torch.no_grad()
    def _set(self, parameter: torch.nn.Parameter, value: Tensor, moment: str | None = None) -> None:
        master = self._master(parameter)
        if master is None and moment is None:
            safe_set_full_fp32_param(parameter, value)
            # The fragment call writes the master only; the weights of the forward pass follow it.
            if not hasattr(parameter, "ds_id"):
                parameter.copy_(value)
        elif master is None:
            safe_set_full_optimizer_state(parameter, value, moment)
        elif moment is None:
            master.copy_(value)
            parameter.copy_(value)
        else:
            self._inner_optimizer().state[master][moment] = value.to(master.dtype).clone()
