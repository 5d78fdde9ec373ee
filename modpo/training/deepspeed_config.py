"""The DeepSpeed configuration of a run: a pure function of the sweep file."""

from __future__ import annotations

import copy
from typing import Any

from modpo.config.tree import OptimisationConfig


def deepspeed_config(
    training: OptimisationConfig, *, low_precision: bool, user: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What `deepspeed.initialize` gets.

    Args:
        low_precision: the trained weights themselves are bfloat16, so DeepSpeed keeps a float32 master of them.
            Adapters are float32 on any base and need none.
        user: the user's own DeepSpeed file. Batch sizes, clipping and precision are the sweep file's and win.
    """
    merged = copy.deepcopy(user or {})
    zero = merged.setdefault("zero_optimization", {})
    zero.setdefault("stage", training.deepspeed.stage)
    if training.deepspeed.offload.optimizer:
        zero.setdefault("offload_optimizer", {"device": "cpu"})
    if training.deepspeed.offload.parameters:
        zero.setdefault("offload_param", {"device": "cpu"})
    merged |= {
        "train_micro_batch_size_per_gpu": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "gradient_clipping": training.max_grad_norm,
        # torch's AdamW under every stage: the same optimiser everywhere, and nothing to compile.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    merged.pop("train_batch_size", None)
    merged.pop("fp16", None)
    merged["bf16"] = {"enabled": low_precision}
    return merged
