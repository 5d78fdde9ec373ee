"""What may be kept in host memory under which ZeRO stage, for everything that a run trains."""

from __future__ import annotations

from collections.abc import Iterator

from modpo.config.optimisation import OptimisationConfig
from modpo.config.rewards import TrainedReward
from modpo.config.tree import SweepConfig
from modpo.errors import Problem


def check_offload(config: SweepConfig) -> Iterator[Problem]:
    """Offloads that DeepSpeed would leave out without a word, or refuse only when the workers start."""
    for where, part in _optimised(config):
        stage, offload = part.deepspeed.stage, part.deepspeed.offload
        if (offload.optimizer and stage == 0) or (offload.parameters and stage != 3):
            yield Problem(
                code="MS-152",
                what="this offload needs a higher ZeRO stage",
                where=f"{where}.deepspeed.offload",
                got=f"stage {stage}",
                wanted="stage 1-3 for the optimiser, stage 3 for parameters",
                remedy=f"raise {where}.deepspeed.stage",
            )


def _optimised(config: SweepConfig) -> Iterator[tuple[str, OptimisationConfig]]:
    """Everything that the run trains, and where the sweep file says how."""
    yield "training", config.training
    if config.sft is not None:
        yield "sft", config.sft
    for index, objective in enumerate(config.objectives):
        if isinstance(objective.reward, TrainedReward):
            yield f"objectives.{index}.reward", objective.reward
