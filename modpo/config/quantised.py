"""What a model whose frozen weights are kept in 4 bits can and cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from modpo.config.tree import SweepConfig
from modpo.errors import Problem

PACKAGE = "bitsandbytes"


def check_quantised(config: SweepConfig) -> Iterator[Problem]:
    """What the sweep file asks of a model in 4 bits, and it does not have."""
    if not config.model.load_in_4bit:
        return
    if config.model.lora is None:
        yield Problem(
            code="MS-157",
            what="weights in 4 bits cannot be trained",
            where="model.load_in_4bit",
            got="lora: null, which trains all weights",
            wanted="an adapter on the frozen weights",
            remedy="give model.lora, or set model.load_in_4bit to false",
        )
    if config.sft is not None and config.sft.lora is None:
        yield Problem(
            code="MS-158",
            what="supervised fine-tuning cannot train weights in 4 bits",
            where="sft.lora",
            got="null, which trains all weights",
            wanted="an adapter, which is merged into the unquantised model afterwards",
            remedy="give sft.lora, or fine-tune in another run and name its start model",
        )
    for section, part in (("training", config.training), ("sft", config.sft)):
        if part is not None and part.deepspeed.stage == 3:
            yield partitioned(f"{section}.deepspeed.stage")


def partitioned(where: str) -> Problem:
    """ZeRO 3 asked for, in the sweep file or in a DeepSpeed file."""
    return Problem(
        code="MS-159",
        what="ZeRO 3 cannot partition weights in 4 bits",
        where=where,
        got="stage 3",
        wanted="stage 0, 1 or 2",
        remedy="lower the stage: the frozen weights are a quarter of their size in 16 bits, and only an adapter trains",
    )


def not_installed() -> Problem:
    """On this machine, or on a worker's."""
    return Problem(
        code="MS-404",
        what=f"models in 4 bits need the package {PACKAGE}",
        where="model.load_in_4bit",
        got="not installed",
        wanted=f"{PACKAGE} on every machine that has workers",
        remedy="pip install 'modpo[quantization]', or set model.load_in_4bit to false",
    )


def no_gpu() -> Problem:
    """The workers of a trial have none."""
    return Problem(
        code="MS-403",
        what="models in 4 bits train on GPUs only",
        where="model.load_in_4bit",
        got="workers without a GPU",
        wanted=f"one for each: on some processors, what {PACKAGE} multiplies after an evaluation has no gradient",
        remedy="run on machines with GPUs (resources.gpus_per_worker above 0), or set model.load_in_4bit to false",
    )
