"""Secrets and prompts that leave their place, and artefacts that run code when they are read: none may."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.reliability.base import undisturbed, write_base_world
from benchmarks.reliability.disturbed import PATIENCE_S
from benchmarks.reliability.figures import Figure, Measured, Options
from tests.pipeline.hostile import hostile_artefacts
from tests.pipeline.leaks import canary_run, leaks, unexpected_imports

STAGE = 0


def measure(options: Options) -> Measured:
    """A run with a canary in every secret and prompt is looked through; another is filled with hostile files."""
    whole = undisturbed(options.shared, stage=STAGE, patience_s=PATIENCE_S)
    world = options.folder / "world"
    write_base_world(world)
    # Ray's sockets lie below it, and may not have long paths.
    short = Path(tempfile.mkdtemp(prefix="canary-"))
    try:
        made = canary_run(world, short)
        if any(made.statuses[name] != 0 for name in ("validate", "run", "report")):
            raise RuntimeError(f"the run with canaries did not end well: {dict(made.statuses)}")
        leaked = leaks(made)
        imported = list(unexpected_imports(made))
    finally:
        shutil.rmtree(short, ignore_errors=True)
    options.say(f"{leaked.searched} files searched for secrets and prompts")
    place = options.folder / "hostile"
    place.mkdir()
    found = hostile_artefacts(whole.path, world, place)
    options.say(f"{found.tried} hostile artefacts")
    return Measured(
        {
            "secrets leaked in any artefact": Figure(len(leaked.secrets), 0, "at most"),
            "prompt texts leaked in any artefact": Figure(len(leaked.prompts), 0, "at most"),
            "reward code imported where nothing is scored": Figure(len(imported), 0, "at most"),
            "hostile artefacts executed": Figure(len(found.executed), 0, "at most"),
            "hostile names that lead elsewhere": Figure(len(found.escaped), 0, "at most"),
        },
        [
            {"files_searched": leaked.searched, "secrets": list(leaked.secrets), "prompts": list(leaked.prompts)},
            {"imported": imported},
            {"artefacts_tried": found.tried, "executed": found.executed, "escaped": found.escaped},
        ],
    )
