"""What a user is told where memory ran short: how much there was, and what takes less."""

from __future__ import annotations

import resource

from modpo.config.optimisation import OptimisationConfig
from modpo.config.spec import Work
from modpo.errors import Problem


def out_of_memory(work: Work, rank: int | None, used: str) -> Problem:
    """Memory ran out under a piece of work.

    Args:
        used: how much there was, in words.
    """
    batch, remedy = _batch_and_remedy(work)
    return Problem(
        code="MS-505",
        what=f"{work.trial.trial_id if work.trial else work.work_id} ran out of memory",
        where="" if rank is None else f"rank {rank}",
        got=f"{used}; batches of {batch} x up to {work.config.longest_sequence} tokens",
        remedy=remedy,
    )


def peak_memory() -> str:
    """The most that this process has held."""
    # The desk imports this module too, and has no use for torch.
    import torch

    if torch.cuda.is_available():
        return f"a peak of {torch.cuda.max_memory_allocated():,} bytes on the GPU"
    return f"a peak of {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:,} bytes"


def _batch_and_remedy(work: Work) -> tuple[str, str]:
    config = work.config
    if work.kind in ("vertex", "point"):
        return _training(config.training, "training")
    if work.kind == "sft" and config.sft is not None:
        return _training(config.sft, "sft")
    if work.kind == "label" and config.label is not None:
        return f"{config.label.batch_size} sequences", "lower label.batch_size"
    if work.kind == "reward_model":
        return "its own per_device_train_batch_size rows", f"lower it in the reward of {work.objective!r}"
    return f"{config.evaluation.batch_size} sequences", "lower evaluation.batch_size"


def _training(settings: OptimisationConfig, section: str) -> tuple[str, str]:
    size, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    smaller = next((factor for factor in (2, 3, 5, 7) if size % factor == 0), size)
    others = f"{section}.gradient_checkpointing, a higher {section}.deepspeed.stage or its offload take less"
    if size == 1:
        return "1 row", f"{others}, and so does a lower data.max_length"
    same = (
        f"{section}.per_device_train_batch_size={size // smaller} with "
        f"{section}.gradient_accumulation_steps={accumulation * smaller} is the same training in less memory"
    )
    return f"{size} rows", f"{same}; {others}; a measurement takes less with a lower evaluation.batch_size"
