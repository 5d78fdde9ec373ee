"""Damaged artefacts and ledgers of a whole run: the same command must tell of each, and make it again.

In copies of the undisturbed run every folder has one of its files damaged, and so have the small files of the ledger,
in each copy by another damage. Then the command is given again, once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.base import Command, Run, undisturbed
from benchmarks.reliability.damage import OF_A_FILE, Damage, bit_flipped, emptied, holed, missing, spoil, truncated
from benchmarks.reliability.disturbed import PATIENCE_S, Disturbed
from benchmarks.reliability.figures import Figure, Measured, Options
from modpo.artifacts import MANIFEST, is_complete

STAGE = 0
COPIES = 3
OF_FOLDERS: tuple[Damage, ...] = (truncated, emptied, bit_flipped, holed, missing)
OF_JSON: tuple[Damage, ...] = (truncated, emptied, holed)
"""What no longer is what it was, whatever it says: nothing else could tell a number of the ledger from another."""


def measure(options: Options) -> Measured:
    """Each copy is damaged everywhere at once and run again; it must end as the undisturbed run did."""
    whole = undisturbed(options.shared, stage=STAGE, patience_s=PATIENCE_S)
    rows = [row for number in range(COPIES) for row in _one_copy(options, whole, number)]
    count = len(rows)
    return Measured(
        {
            "damaged artefacts and ledger files detected": Figure(sum(r["detected"] for r in rows), count, "at least"),
            "damaged artefacts and ledger files made again": Figure(
                sum(r["recovered"] for r in rows), count, "at least"
            ),
        },
        rows,
    )


def _one_copy(options: Options, whole: Run, number: int) -> Iterator[dict[str, Any]]:
    run = Run(options.folder / f"copy-{number}")
    shutil.copytree(whole.folder, run.folder)
    damages = [*_damage_folders(run, number), *_damage_ledger(run, number)]
    options.say(f"copy {number}: {len(damages)} files damaged")
    command = Command(run.folder, 2)
    try:
        status = command.wait(PATIENCE_S)
    finally:
        command.end()
    said = command.output.read_text(encoding="utf-8", errors="replace")
    options.say(f"  ended with {status}")
    found = Disturbed(run, [], [], 1)
    is_whole = status == 0 and not found.differing_weights(whole) and not found.differing_measurements(whole)
    for place, path, damage in damages:
        yield {
            "copy": number,
            "file": str(path.relative_to(run.path)),
            "damage": damage,
            "detected": str(place.relative_to(run.path)) in said,
            "recovered": is_whole and (is_complete(place) or place.is_file()),
        }


def _folders(run: Run) -> list[Path]:
    """All that the run has committed and relies on."""
    return sorted(
        manifest.parent
        for pattern in ("artifacts/*", "points/*/final", "points/*/evaluation-*")
        for manifest in run.path.glob(f"{pattern}/{MANIFEST}")
    )


def _damage_folders(run: Run, number: int) -> Iterator[tuple[Path, Path, str]]:
    """One file of each folder, another in every copy, and as many kinds of damage."""
    for place, folder in enumerate(_folders(run)):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path, damage = files[(number + place) % len(files)], OF_FOLDERS[(number * 2 + place) % len(OF_FOLDERS)]
        spoil(path, path, damage)
        yield folder, path, _name(damage)


def _damage_ledger(run: Run, number: int) -> Iterator[tuple[Path, Path, str]]:
    points = sorted(run.path.glob("points/*/point.json"))
    for place, path in enumerate([run.path / "run.json", run.path / "stages.json", *points]):
        damage = OF_JSON[(number + place) % len(OF_JSON)]
        spoil(path, path, damage)
        yield path, path, _name(damage)


def _name(damage: Damage) -> str:
    return next(name for name, found in OF_A_FILE.items() if found is damage)
