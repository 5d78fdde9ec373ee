"""The DeepSpeed configuration of a run: a pure function of the sweep file."""

from __future__ import annotations

from typing import Any

from modpo.config.optimisation import OptimisationConfig
from modpo.core.memory import REDUCE_BUCKET

# Left out of a user's file: the sweep file sets them, or they contradict what it sets.
SWEEP_FILE_DECIDES = frozenset(
    {"train_batch_size", "fp16", "amp", "torch_autocast", "data_types", "optimizer", "scheduler"}
)


def deepspeed_config(
    training: OptimisationConfig,
    *,
    micro_batches: int,
    num_trained: int,
    low_precision: bool,
    user: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `deepspeed.initialize` gets.

    Args:
        micro_batches: of one worker, in one optimiser step.
        num_trained: numbers that are trained.
        low_precision: the trained weights themselves are bfloat16, so DeepSpeed keeps a float32 master of them.
            Adapters are float32 on any base and need none.
        user: the user's own DeepSpeed file. Batch sizes, clipping, precision, optimiser and schedule are the sweep
            file's; what is left as "auto", as in files for the Hugging Face trainer, is DeepSpeed's default.
    """
    merged = {name: value for name, value in _without_auto(user or {}).items() if name not in SWEEP_FILE_DECIDES}
    zero = merged.setdefault("zero_optimization", {})
    zero.setdefault("stage", training.deepspeed.stage)
    if zero["stage"] > 0:
        # DeepSpeed makes room for a whole bucket, needed or not: 2 GB for the gradients of the smallest adapter.
        zero.setdefault("reduce_bucket_size", min(REDUCE_BUCKET, num_trained))
    if training.deepspeed.offload.optimizer:
        zero.setdefault("offload_optimizer", {"device": "cpu"})
    if training.deepspeed.offload.parameters:
        zero.setdefault("offload_param", {"device": "cpu"})
    return merged | {
        "train_micro_batch_size_per_gpu": training.per_device_train_batch_size,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": training.max_grad_norm,
        # torch's AdamW under every stage: the same optimiser everywhere, and nothing to compile.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "bf16": {"enabled": low_precision},
    }


def _without_auto(section: dict[str, Any]) -> dict[str, Any]:
    """A copy without the keys whose value is "auto", which DeepSpeed itself does not know."""
    return {
        name: _without_auto(value) if isinstance(value, dict) else value
        for name, value in section.items()
        if value != "auto"
    }
