"""What every config node is, and what every path in it is."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

MODULE_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"

# What Linux takes, in bytes.
MAX_PATH = 4095
MAX_PATH_PART = 255


class Frozen(BaseModel):
    """Base of every config node: unknown keys are refused, nothing is edited after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _checked_path(text: str) -> str:
    if not text.strip():
        raise ValueError("a path that is not empty")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ValueError("a path without control characters")
    encoded = text.encode()
    if len(encoded) > MAX_PATH or any(len(part) > MAX_PATH_PART for part in encoded.split(b"/")):
        raise ValueError(f"a path of at most {MAX_PATH} bytes, with at most {MAX_PATH_PART} between two slashes")
    return text


PathText = Annotated[str, AfterValidator(_checked_path)]
"""A path, or the name of something on a hub."""
