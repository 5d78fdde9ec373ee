"""Whether points of a sweep can be trained together, as adapters on one model, as far as the sweep file says."""

from __future__ import annotations

from collections.abc import Iterator

from modpo.config.tree import SweepConfig
from modpo.errors import Problem


def alone_because(config: SweepConfig) -> str | None:
    """Why no points of a sweep can be trained together; None if nothing in its file speaks against it."""
    return next(_reasons(config), None)


def _reasons(config: SweepConfig) -> Iterator[str]:
    training, lora = config.training, config.model.lora
    if lora is None:
        yield "all weights are trained (model.lora is null)"
    elif lora.lora_dropout > 0:
        yield "the adapters have dropout (model.lora.lora_dropout)"
    if config.model.load_in_4bit:
        yield "the frozen weights are in 4 bits (model.load_in_4bit)"
    if training.deepspeed.stage > 0:
        yield "the weights are partitioned (training.deepspeed.stage)"
    if training.deepspeed.config_file is not None:
        yield "a DeepSpeed file decides about the engine (training.deepspeed.config_file)"
    if training.early_stopping is not None:
        yield "points may end early (training.early_stopping)"


def check_together(config: SweepConfig) -> Iterator[Problem]:
    """Points that are asked to be trained together must be such as can."""
    asked, reason = config.resources.points_together, alone_because(config)
    if asked not in ("auto", 1) and reason is not None:
        yield Problem(
            code="MS-160",
            what="points of this sweep cannot be trained together",
            where="resources.points_together",
            got=f"{asked}, and {reason}",
            wanted="LoRA without dropout on weights of 16 or 32 bits, no ZeRO, no DeepSpeed file, no early stopping",
            remedy="set resources.points_together to auto or 1, or change what is in the way",
        )
