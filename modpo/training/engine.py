"""DeepSpeed behind a small surface: forward, backward, step, and the full float32 state in and out.

The only file that imports deepspeed. State moves as plain float32 tensors by parameter name, the same in every ZeRO
stage and world size, so that checkpoints need neither DeepSpeed's files nor a pickle.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from modpo.config.optimisation import OptimisationConfig
from modpo.kernels.stacked_lora import clip_each_policy
from modpo.training.deepspeed_config import deepspeed_config
from modpo.training.global_batch import global_batch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")

import deepspeed  # reads the accelerator from the environment when imported
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
# Without this, DeepSpeed compiles a shared-memory op on CPU at the first start: a minute, a compiler, and a lock
# file that hangs every later start if the process is killed meanwhile.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedEngine:
    """A model in training under DeepSpeed. Every method must be called by all ranks alike."""

    def __init__(
        self,
        model: torch.nn.Module,
        training: OptimisationConfig,
        *,
        num_workers: int | None = None,
        trained: torch.nn.Module | None = None,
        clips: bool = True,
    ) -> None:
        """Takes the model's trainable parameters; torch.distributed must be initialised.

        Args:
            num_workers: that the batch sizes of `training` are meant for; as many as there are, if left out.
            trained: the part of the model that is stored and sampled from, and whose names its weights have; all of
                it, if left out.
            clips: whether DeepSpeed clips the gradients, by their global norm.
        """
        self.world_size, self.rank = dist.get_world_size(), dist.get_rank()
        self.batch = global_batch(training, num_workers=num_workers or self.world_size, world_size=self.world_size)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        user = training.deepspeed.config_file
        settings = deepspeed_config(
            training,
            micro_batches=self.batch.micro_batches,
            num_trained=sum(parameter.numel() for parameter in trainable),
            low_precision=trainable[0].dtype == torch.bfloat16,
            user=json.loads(Path(user).read_text(encoding="utf-8")) if user else None,
        )
        if not clips:
            settings["gradient_clipping"] = 0.0
        optimizer = torch.optim.AdamW(
            trainable,
            # DeepSpeed's bfloat16 optimiser takes a step of its own when it is built: it must not decay the weights.
            lr=0.0,
            betas=(0.9, training.adam_beta2),
            weight_decay=training.weight_decay,
        )
        # ZeRO 3 replaces this function for the whole process and leaves it so.
        self._plain_linear = functional.linear
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=trainable, config=settings, dist_init_required=False
        )
        # Nor may that step count in the bias correction.
        self._inner_optimizer().state.clear()
        self._stage = int(self._engine.zero_optimization_stage())
        self._norm: Tensor | None = None
        self._has_nan: Tensor | None = None
        self._begins_step = True
        # Without ZeRO and a master copy the norm itself says so.
        watched = [] if self._is_plain() else trainable
        self._watching: list[Any] = [
            parameter.register_hook(self._look_for_nan)  # type: ignore[no-untyped-call]  # torch does not say
            for parameter in watched
        ]
        self._trained = model if trained is None else trained

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    @property
    def module(self) -> torch.nn.Module:
        """What is trained, for saving and sampling; train through `model`."""
        return self._trained

    @property
    def model(self) -> torch.nn.Module:
        """What to call for a forward pass: DeepSpeed gathers partitioned weights around it."""
        engine: torch.nn.Module = self._engine
        return engine

    def micro_step(self, loss: Tensor, *, learning_rate: float) -> None:
        """Backward pass; at the end of an accumulation also clips and steps at this learning rate."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._begins_step:
            self._has_nan = None
        self._engine.backward(loss)
        self._begins_step = bool(self._engine.is_gradient_accumulation_boundary())
        if self._engine.is_gradient_accumulation_boundary() and self._is_plain():
            self._norm = self._take_norm([p.grad for _, p in self._trainable() if p.grad is not None])
        self._engine.step()

    def grad_norm(self) -> float:
        """Global gradient norm of the last optimiser step, before clipping; not finite where a gradient was not."""
        norm = self._norm if self._is_plain() else self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def was_step_skipped(self) -> bool:
        """Whether DeepSpeed left the weights as they were in the last optimiser step: a gradient was not finite."""
        return not self._engine.was_step_applied()

    def had_nan_gradient(self) -> bool:
        """Whether a gradient of this rank was no number in the last optimiser step, though it was not taken.

        DeepSpeed gives such a step the norm of one whose gradient was too large: infinity.
        """
        return self._has_nan is not None and bool(self._has_nan)

    def parameters(self) -> dict[str, Tensor]:
        """All trained parameters in full float32, on rank 0's CPU, by name; an empty dict on the other ranks.

        They take part in the gathering only: a copy for every rank of a machine could fill its memory.
        """
        return dict(self._full_states())

    def moments(self) -> dict[str, Tensor]:
        """AdamW's moments in full float32, on rank 0's CPU, as `name.exp_avg` and `name.exp_avg_sq`."""
        self._make_moments()
        return {f"{name}.{moment}": value for moment in MOMENTS for name, value in self._full_states(moment)}

    def load(self, parameters: dict[str, Tensor], moments: dict[str, Tensor], *, num_steps: int) -> None:
        """Puts back what rank 0 got from `parameters` and `moments` after `num_steps` optimiser steps."""
        self._make_moments()
        for name, parameter in self._trainable():
            self._set(parameter, parameters[name].to(self.device))
            for moment in MOMENTS:
                self._set(parameter, moments[f"{name}.{moment}"].to(self.device), moment)
        for state in self._inner_optimizer().state.values():
            state["step"] = torch.tensor(float(num_steps))
        self._engine.global_steps = num_steps

    def close(self) -> None:
        """Frees what DeepSpeed holds and undoes what it changed, so that the next point starts in a clean process."""
        for hook in self._watching:
            hook.remove()
        self._engine.destroy()
        functional.linear = self._plain_linear
        if self._stage == 3:
            _forget_zero_3_models()

    def _look_for_nan(self, gradient: Tensor) -> None:
        found = gradient.isnan().any()
        self._has_nan = found if self._has_nan is None else self._has_nan | found

    def _take_norm(self, gradients: list[Tensor]) -> Tensor:
        """Of the gradients that the next step is about to use; DeepSpeed then clips them itself."""
        return torch.nn.utils.get_total_norm(gradients)

    def _trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def _is_plain(self) -> bool:
        """Whether torch's AdamW itself steps the parameters: no ZeRO, and no master copy beside them."""
        return isinstance(self._engine.optimizer, torch.optim.Optimizer)

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = self._engine.optimizer
        inner: torch.optim.Optimizer = optimizer if self._is_plain() else optimizer.optimizer
        return inner

    def _make_moments(self) -> None:
        """AdamW makes its moments in its first step, and ZeRO maps parameters onto them only then: do so now."""
        optimizer: Any = self._engine.optimizer
        inner = self._inner_optimizer()
        # ZeRO 3 puts its flat partitions into the parameter groups for the time of a step only.
        groups = [group["params"] for group in inner.param_groups]
        flat = optimizer.fp32_partitioned_groups_flat if self._stage == 3 else [t for group in groups for t in group]
        for tensor in flat:
            state = inner.state[tensor]
            if not state:
                state["step"] = torch.tensor(0.0)
                state |= {moment: torch.zeros_like(tensor, requires_grad=False) for moment in MOMENTS}
        if self._stage in (1, 2):
            optimizer._lazy_init_hp_params_optimizer_state()

    def _master(self, parameter: torch.nn.Parameter) -> Tensor:
        """The float32 tensor that AdamW steps for a parameter, where ZeRO is off."""
        if self._is_plain():
            return parameter
        optimizer: Any = self._engine.optimizer
        low = [tensor for group in optimizer.fp16_groups for tensor in group]
        high = [tensor for group in optimizer.fp32_groups for tensor in group]
        found: Tensor = next(master for tensor, master in zip(low, high, strict=True) if tensor is parameter)
        return found

    def _full_states(self, moment: str | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every parameter (or that moment of it) in full; every rank must exhaust it, rank 0 gets the values."""
        for name, parameter in self._trainable():
            value = self._get(parameter, moment)
            if self.rank == 0:
                yield name, value.detach().to("cpu", torch.float32, copy=True)

    def _get(self, parameter: torch.nn.Parameter, moment: str | None) -> Tensor:
        value: Tensor
        if self._stage == 0:
            master = self._master(parameter)
            value = master if moment is None else self._inner_optimizer().state[master][moment]
        elif moment is None:
            value = safe_get_full_fp32_param(parameter)
        else:
            value = safe_get_full_optimizer_state(parameter, moment)
        return value

    @torch.no_grad()
    def _set(self, parameter: torch.nn.Parameter, value: Tensor, moment: str | None = None) -> None:
        if self._stage == 3:
            self._set_partitioned(parameter, value, moment)
        elif self._stage > 0 and moment is not None:
            safe_set_full_optimizer_state(parameter, value, moment)
        elif moment is not None:
            self._inner_optimizer().state[self._master(parameter)][moment].copy_(value)
        else:
            if self._stage > 0:
                safe_set_full_fp32_param(parameter, value)
            else:
                self._master(parameter).copy_(value)
            # Those write the master only; the weights of the forward pass follow it.
            parameter.copy_(value)

    def _set_partitioned(self, parameter: torch.nn.Parameter, value: Tensor, moment: str | None) -> None:
        # DeepSpeed's own calls for a full value fail where the ranks do not divide its size.
        size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]  # ZeRO 3 puts it there
        padded = functional.pad(value.flatten(), (0, size * self.world_size - value.numel()))
        own = padded.narrow(0, size * self.rank, size)
        if moment is not None:
            safe_set_local_optimizer_state(parameter, own, moment)
            return
        safe_set_local_fp32_param(parameter, own)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)


class StackedEngine(DeepSpeedEngine):
    """Trains policies that are stacked along the first dimension of every parameter, each clipped by its own norm.

    Without ZeRO, and with adapters that are their own float32 masters: then nothing but the clipping looks at more
    than one element of a parameter.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        training: OptimisationConfig,
        *,
        trained: torch.nn.Module,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(model, training, num_workers=num_workers, trained=trained, clips=False)
        assert self._is_plain(), "stacked policies are trained without ZeRO, in float32"
        self._max_norm = training.max_grad_norm
        self._norms = torch.zeros(0)

    def grad_norms(self) -> list[float]:
        """Of each policy, as `grad_norm` of its own engine would be; `grad_norm` here is that of all together."""
        norms: list[float] = self._norms.tolist()
        return norms

    def _take_norm(self, gradients: list[Tensor]) -> Tensor:
        self._norms = clip_each_policy(gradients, self._max_norm)
        together: Tensor = torch.linalg.vector_norm(self._norms)
        return together


def _forget_zero_3_models() -> None:
    """ZeRO 3 never lets go of a model: a slot that trains many points would hold them all."""
    FWD_MODULE_STACK.clear()
    for cached in [thing for thing in gc.get_objects() if isinstance(thing, functools._lru_cache_wrapper)]:
        if str(cached.__module__).startswith("deepspeed.runtime.zero"):
            cached.cache_clear()
