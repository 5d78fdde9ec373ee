"""The parts that several workers write of one table."""

from __future__ import annotations

import logging
from pathlib import Path

from modpo.artifacts import committed, damage_here, set_aside
from modpo.storage import address

logger = logging.getLogger(__name__)


def part_files(parts: Path) -> list[Path]:
    """The parquet file of every part that is whole, by the names of the parts; damaged ones are set aside, aloud."""
    files = []
    for part in committed(parts, "part-*"):
        if damage := damage_here(part):
            logger.warning("%s is damaged (%s): set aside as %s", address(part), damage, set_aside(part))
        else:
            files.append(part / "part.parquet")
    return files
