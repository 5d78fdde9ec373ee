"""What every config node is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MODULE_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class Frozen(BaseModel):
    """Base of every config node: unknown keys are refused, nothing is edited after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
