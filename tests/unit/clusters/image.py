"""The Dockerfile as its instructions."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def instructions(repository: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments in one line; comments are left out, also those within an instruction."""
    lines = (repository / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def assignments(repository: Path, instruction: str) -> dict[str, str]:
    """What ENV or ARG set, over all stages; an ARG that only takes up an earlier one keeps its value."""
    found: dict[str, str] = {}
    for word, rest in instructions(repository):
        if word == instruction:
            for part in shlex.split(rest):
                name, given, value = part.partition("=")
                if given or name not in found:
                    found[name] = value
    return found


def environment(repository: Path) -> dict[str, str]:
    return assignments(repository, "ENV")
