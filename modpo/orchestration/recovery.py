"""What a resume does first: whatever is damaged is set aside, so that it is made anew and never loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from modpo.artifacts import committed, damage_of, find_json, set_aside
from modpo.errors import Problem, shown
from modpo.ledger import PointRecord, point_dir, point_ids
from modpo.storage import address, stored

# Hashing waits for the disk as often as for a core.
THREADS = 4


def set_aside_damaged(run_dir: Path) -> list[Problem]:
    """Looks at everything that a run keeps and relies on, and sets aside what is not as it was written.

    Of files every byte is read; on an object store their sizes are compared, and their bytes when a node fetches them.
    Checkpoints are looked at by the workers that resume from them. What is set aside is as if it had never been: the
    ledger's entries come back from the artefacts, and artefacts from the stages that make them.

    Returns:
        A warning for each.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        folders = list(_folders(run_dir))
        damaged = [(path, damage) for path, damage in zip(folders, pool.map(damage_of, folders), strict=True) if damage]
    damaged += [(path, damage) for path, check in _json_files(run_dir) if (damage := _damage_of_json(path, check))]
    return [
        Problem(
            code="MS-731",
            what="something that the run keeps is damaged, and is set aside",
            where=address(path),
            got=damage,
            remedy=f"nothing: it is made anew. What is left of it: {set_aside(path)}",
        )
        for path, damage in damaged
    ]


def _folders(run_dir: Path) -> Iterator[Path]:
    yield from _kept(run_dir / "artifacts", "*")
    for trial_id in point_ids(run_dir):
        point = point_dir(run_dir, trial_id)
        yield from (*_kept(point, "final"), *_kept(point, "evaluation-*"))


def _kept(folder: Path, pattern: str) -> list[Path]:
    """On a file system also what has lost its manifest; on a store, that is nothing."""
    if stored(folder) is not None:
        return committed(folder, pattern)
    return sorted(path for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _json_files(run_dir: Path) -> Iterator[tuple[Path, Callable[[Any], object]]]:
    """The small files that change, and what reads each of them."""
    yield run_dir / "run.json", lambda value: (value["config"].items(), value["config_digest"], value["created_at"])
    yield run_dir / "stages.json", lambda value: [float(stage.get("seconds", 0)) for stage in value.values()]
    yield run_dir / "report" / "digest.json", lambda value: value["digest"]
    yield run_dir / "report" / "summary.json", lambda value: value["points"]
    for trial_id in point_ids(run_dir):
        yield point_dir(run_dir, trial_id) / "point.json", PointRecord.model_validate
        looks = point_dir(run_dir, trial_id) / "early_stopping.json"
        yield looks, lambda value: [(int(step), float(j_w)) for step, j_w in value.items()]


def _damage_of_json(path: Path, check: Callable[[Any], object]) -> str:
    try:
        value = find_json(path)
        if value is not None:
            check(value)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return shown(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return ""
