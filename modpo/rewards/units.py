"""The size of one unit of an objective's raw reward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modpo.config.objectives import ObjectiveConfig
from modpo.core.reward_units import fit_unit
from modpo.errors import InputError, Problem


def objective_unit(objective: ObjectiveConfig, gaps: NDArray[np.float64]) -> float:
    """s_j as declared, or as `normalize` fits it on reward gaps (N,) in raw units; NaN stands for no reward there.

    Raises:
        InputError: there is nothing to fit on, or the reward never differs.
    """
    if objective.normalize == "none":
        return objective.unit
    known = gaps[np.isfinite(gaps)]
    if not known.any():
        raise InputError(
            Problem(
                code="MS-234",
                what=f"the reward of {objective.name!r} cannot be normalised: it never differs between two responses",
                where=f"objectives ({objective.name}).normalize",
                got=f"{known.size} pairs without a difference",
                wanted="a reward that tells responses apart",
                remedy="mend the reward, or give the unit by hand with `unit`",
            )
        )
    return fit_unit(known, objective.normalize)
