"""Objectives in the sweep file: their data, their rewards, their sign and their unit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from modpo.config.frozen import Frozen
from modpo.config.rewards import ColumnsReward, ImplicitReward, RewardConfig
from modpo.config.sources import Direction, Normalize, PairsConfig

OBJECTIVE_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,30}$"


class ObjectiveConfig(Frozen):
    """One axis that people prefer along."""

    name: Annotated[str, Field(pattern=OBJECTIVE_NAME)]
    """Used in weights, tables and file names."""
    pairs: PairsConfig | None = None
    """Preference pairs; an objective without them can only be a margin."""
    reward: RewardConfig | None = None
    """Where rewards come from; the implicit reward of the objective's own vertex if left out."""
    direction: Direction = "maximize"
    """`minimize` negates scores and rewards once, on entry; pairs always say themselves what is better."""
    beta: PositiveFloat | None = None
    """beta of this objective's DPO vertex, in the declared unit; the training's beta if left out."""
    unit: PositiveFloat = 1.0
    """Size of one unit of the raw reward: weights, beta and the objective values are in these units."""
    normalize: Normalize = "none"
    """Fits the unit instead, on the reward gaps of the annotated pairs: `std` is their root mean square over the root
    of two (the standard deviation of one response's reward), `range` the largest of them."""

    @property
    def sign(self) -> float:
        """What a raw number is multiplied by, once, so that higher is better."""
        return 1.0 if self.direction == "maximize" else -1.0

    @property
    def is_self_scored(self) -> bool:
        """Whether its values on new responses come from the model that its own pairs trained, or from an adapter."""
        return self.reward is None or isinstance(self.reward, ImplicitReward | ColumnsReward)

    @property
    def scores_new_responses(self) -> bool:
        """Whether its reward scores responses before any model of the sweep is trained on them."""
        implicit = isinstance(self.reward, ImplicitReward) and self.reward.adapter is None
        return self.reward is not None and not implicit and not isinstance(self.reward, ColumnsReward)
