"""Whether a run is in a given phase now, told from its files alone: the product has no hook for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.base import SAVE_STEPS, STEPS, Run
from benchmarks.reliability.kill_plan import OF_POINTS, Kill, Phase
from modpo.artifacts import is_complete


def reached(kill: Kill, run: Run) -> str | None:
    """What shows that the run is in the phase of a kill, None where it is not.

    What a killed process left behind shows the same again: a phase is reached only with a sign that was not seen at an
    earlier kill.
    """
    if not (run.path / "run.json").is_file():
        return None
    if kill.phase in OF_POINTS:
        trial_id = run.trial_ids[kill.point]
        return _POINT_SIGNS[kill.phase](run, trial_id, kill.step) if run.point(trial_id).is_dir() else None
    return _RUN_SIGNS[kill.phase](run)


def _start(run: Run) -> str | None:
    """Nothing is annotated yet."""
    return None if _artefact(run, "reference") or _parts(run, "reference") else "start"


def _annotating(stage: str) -> Callable[[Run], str | None]:
    """A part of the stage's table is being written."""

    def sign(run: Run) -> str | None:
        return None if _artefact(run, stage) else next(iter(sorted(_parts(run, stage, aside=True))), None)

    return sign


def _report(run: Run) -> str | None:
    done = all(run.is_finished(trial_id) for trial_id in run.trial_ids)
    return "report" if done and not (run.path / "report" / "digest.json").exists() else None


def _step(run: Run, trial_id: str, step: int) -> str | None:
    """Between the row of one step and that of the next, where neither saves."""
    rows, last = _rows(run, trial_id)
    is_between = step <= last < STEPS and last % SAVE_STEPS != 0
    return f"{trial_id} {rows} rows" if is_between and not _aside(run, trial_id, last) else None


def _save(run: Run, trial_id: str, step: int) -> str | None:
    """The folder of the checkpoint of the last step stands aside."""
    rows, last = _rows(run, trial_id)
    return f"{trial_id} {rows} rows" if last >= step and _aside(run, trial_id, last) else None


def _saved(run: Run, trial_id: str, step: int) -> str | None:
    """The checkpoint of the last step is there, and no step has been taken since."""
    rows, last = _rows(run, trial_id)
    there = is_complete(run.point(trial_id) / "checkpoints" / f"step_{last:06d}")
    return f"{trial_id} {rows} rows" if step <= last < STEPS and there else None


def _final(run: Run, trial_id: str, step: int) -> str | None:
    """The folder of the final weights stands aside."""
    asides = sorted(path.name for path in run.point(trial_id).glob(".final.*"))
    return None if is_complete(run.point(trial_id) / "final") or not asides else f"{trial_id} {asides}"


def _evaluate(run: Run, trial_id: str, step: int) -> str | None:
    """The point is trained, and has no measurement."""
    trained = run.record(trial_id).get("status") == "trained"
    return f"{trial_id} trained" if trained and not list(run.point(trial_id).glob("evaluation-*")) else None


_RUN_SIGNS: dict[Phase, Callable[[Run], str | None]] = {
    Phase.START: _start,
    Phase.REFERENCE: _annotating("reference"),
    Phase.REWARDS: _annotating("rewards"),
    Phase.REPORT: _report,
}
_POINT_SIGNS: dict[Phase, Callable[[Run, str, int], str | None]] = {
    Phase.STEP: _step,
    Phase.SAVE: _save,
    Phase.SAVED: _saved,
    Phase.FINAL: _final,
    Phase.EVALUATE: _evaluate,
}


def _rows(run: Run, trial_id: str) -> tuple[int, int]:
    """Rows of metrics so far, and the step of the last one."""
    rows = run.losses(trial_id)
    return len(rows), rows[-1][0] if rows else 0


def _aside(run: Run, trial_id: str, step: int) -> bool:
    return any((run.point(trial_id) / "checkpoints").glob(f".step_{step:06d}*.aside"))


def _artefact(run: Run, stage: str) -> bool:
    return any((run.path / "artifacts").glob(f"{stage}-*"))


def _parts(run: Run, stage: str, *, aside: bool = False) -> list[str]:
    return [path.name for path in _all_parts(run.path, stage) if path.name.startswith(".") or not aside]


def _all_parts(run: Path, stage: str) -> list[Path]:
    return [path for folder in (run / "work").glob(f"{stage}-*") for path in folder.iterdir()]
