"""The files of a run, read and checked: every damaged one is told at once, and nothing after this meets a surprise.

Shapes: P held-out prompts, N finished and evaluated points, K objectives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from modpo.analysis.rows import DEVICE_SECONDS, Point, encodable, interval, point_row
from modpo.artifacts import damage_here, find_json, is_complete
from modpo.config.load import parse_config
from modpo.config.tree import SweepConfig
from modpo.errors import InputError, Problem, shown
from modpo.ledger import PointRecord, point_dir, point_ids, read_point
from modpo.storage import address

Matrix = NDArray[np.float64]

STAGES = (
    *("prepare", "sft", "reward_models", "label", "reference", "vertices"),
    *("annotate", "sweep", "evaluate", "report"),
)

NUM_SAMPLE_PROMPTS = 3
MAX_SAMPLE_CHARACTERS = 2000


REPEAT_RUN = "restore the file, or repeat `modpo run`: what is finished is kept"
RETRAIN = "restore the file, or remove the point's folder and repeat `modpo run`: only that point is trained again"
REMEASURE = "restore the file, or remove its folder and run `modpo evaluate`: only that point is measured again"


@dataclass(frozen=True)
class Run:
    """What run.json says.

    Attributes:
        trials: ids of the points of the present sweep, in its order.
        vertices: ids of the points that margin rewards come from; they may be points of the sweep too.
        artifacts: folders, relative to the run's, of what the report shows beside the points.
    """

    config: SweepConfig
    config_digest: str
    versions: dict[str, str]
    created_at: str
    trials: tuple[str, ...]
    vertices: tuple[str, ...]
    artifacts: dict[str, str]


@dataclass(frozen=True)
class Front:
    """The finished and evaluated points, on the held-out prompts that all of them share.

    Attributes:
        values_PNK: mean objective values of each prompt, in declared units, finite.
        points: N rows as `point_row` makes them.
    """

    records: tuple[PointRecord, ...]
    points: tuple[Point, ...]
    prompt_numbers: tuple[int, ...]
    values_PNK: Matrix

    @property
    def means_NK(self) -> Matrix:
        means: Matrix = self.values_PNK.mean(axis=0)
        return means


@dataclass(frozen=True)
class RunFiles:
    """A whole run.

    Attributes:
        points: the present sweep as `point_row` lists it, with `trial_id`.
        other_points: what the ledger holds beside it: vertices of margin rewards, and points of earlier sweeps.
        front: None while no point is finished and evaluated.
        samples: a few prompts, each with one response of every point of the front.
        start: what the start model was measured to be, None before that.
        meaning: what the annotation says about the rewards and labels, None before that.
    """

    run: Run
    stages: dict[str, dict[str, Any]]
    points: list[Point]
    other_points: list[Point]
    front: Front | None
    samples: list[dict[str, Any]]
    start: Point | None
    meaning: dict[str, Any] | None


def read_run(run_dir: Path) -> RunFiles:
    """Reads the ledger, the evaluations and the stages.

    Raises:
        InputError: the folder is no run, or files in it are damaged: all of them are named.
    """
    problems: list[Problem] = []
    run = _parse_manifest(read_manifest(run_dir))
    stages = _read_stages(run_dir, problems)
    records = _read_records(run_dir, run, problems)
    others = _read_other_points(run_dir, run, problems)
    front = _read_front(run_dir, run.config, records, problems)
    samples = _read_samples(run_dir, front, problems) if front else []
    start = _read_start(run_dir, run, problems)
    meaning = _read_artefact(run_dir, run, "rewards", "meaning.json", problems)
    if problems:
        raise InputError(problems)
    return RunFiles(
        run=run,
        stages=stages,
        points=[{**point_row(run.config, records.get(trial_id)), "trial_id": trial_id} for trial_id in run.trials],
        other_points=others,
        front=front,
        samples=samples,
        start=start,
        meaning=meaning,
    )


@contextmanager
def _reading(path: Path, problems: list[Problem], *, remedy: str) -> Iterator[None]:
    """Turns whatever is wrong with a file into a problem."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        problems.append(
            Problem(
                code="MS-302",
                what="a file of the run is missing, damaged or from another version of modpo",
                where=address(path),
                got=shown(f"{type(error).__name__}: {' '.join(str(error).split())}"),
                wanted="the file as modpo wrote it",
                remedy=remedy,
            )
        )


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """run.json as it is on disk, once it is known to be whole.

    Raises:
        InputError: the folder is no run, or its run.json is damaged.
    """
    path = run_dir / "run.json"
    problems: list[Problem] = []
    manifest: Any = None
    with _reading(path, problems, remedy=REPEAT_RUN):
        manifest = find_json(path)
        if manifest is not None:
            _parse_manifest(manifest)
    if problems:
        raise InputError(problems)
    if manifest is None:
        raise InputError(
            Problem(
                code="MS-301",
                what="this folder is no run of modpo",
                where=address(run_dir),
                got="a folder without run.json" if run_dir.is_dir() else "no such folder",
                wanted="the folder that `modpo run` made: storage_path/name of the sweep file",
                remedy="check the path, or start the run with `modpo run`",
            )
        )
    whole: dict[str, Any] = manifest
    return whole


def _read_artefact(run_dir: Path, run: Run, stage: str, name: str, problems: list[Problem]) -> dict[str, Any] | None:
    """A JSON file of a stage of the present sweep, None where the stage has not run."""
    folder = run_dir / run.artifacts.get(stage, stage)
    found: Any = None
    with _reading(folder / name, problems, remedy=REPEAT_RUN):
        found = find_json(_sound(folder) / name)
    result: dict[str, Any] | None = found
    return result


def _sound(folder: Path) -> Path:
    """A folder, here, whose manifest, if it has one, finds every byte as it was written.

    Raises:
        ValueError: it is damaged.
    """
    if is_complete(folder) and (damage := damage_here(folder)):
        raise ValueError(damage)
    return folder


def _read_start(run_dir: Path, run: Run, problems: list[Problem]) -> Point | None:
    result = _read_artefact(run_dir, run, "start_evaluation", "summary.json", problems)
    start: Point | None = None
    if result is not None:
        with _reading(run_dir / run.artifacts["start_evaluation"], problems, remedy=REPEAT_RUN):
            start = {
                "objectives": {name: interval(result["objectives"][name]) for name in run.config.objective_names},
                **{name: float(result[name]) for name in ("length", "distinct_n", "truncated")},
            }
    return start


def _parse_manifest(manifest: Mapping[str, Any]) -> Run:
    return Run(
        config=parse_config(manifest["config"]),
        config_digest=str(manifest["config_digest"]),
        versions={str(package): str(version) for package, version in manifest["versions"].items()},
        created_at=str(manifest["created_at"]),
        trials=tuple(str(trial_id) for trial_id in manifest["trials"]),
        vertices=tuple(str(trial_id) for trial_id in manifest.get("vertices", ())),
        artifacts={str(stage): str(folder) for stage, folder in manifest["artifacts"].items()},
    )


def _read_stages(run_dir: Path, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """The stages that have begun, in the order of the pipeline, which the file's sorted keys do not keep."""
    path = run_dir / "stages.json"
    stages: dict[str, dict[str, Any]] = {}
    with _reading(path, problems, remedy=REPEAT_RUN):
        stored = find_json(path)
        for name, stage in stored.items() if stored is not None else ():
            stages[name] = {
                "seconds": float(stage["seconds"]),
                # Runs of 0.1.0 kept no account of it.
                "device_seconds": float(stage.get("device_seconds", 0.0)),
                "skipped": bool(stage["skipped"]),
            }
    return dict(sorted(stages.items(), key=lambda item: STAGES.index(item[0]) if item[0] in STAGES else len(STAGES)))


def _read_records(run_dir: Path, run: Run, problems: list[Problem]) -> dict[str, PointRecord]:
    """The points that were started."""
    records: dict[str, PointRecord] = {}
    for trial_id in run.trials:
        path = point_dir(run_dir, trial_id) / "point.json"
        with _reading(path, problems, remedy=RETRAIN):
            record = read_point(run_dir, trial_id)
            if record is not None:
                # Refuses NaN, which the JSON reader lets through.
                json.dumps(point_row(run.config, record), allow_nan=False)
                records[trial_id] = record
    return records


def _read_other_points(run_dir: Path, run: Run, problems: list[Problem]) -> list[Point]:
    others: list[Point] = []
    for trial_id in point_ids(run_dir):
        with _reading(point_dir(run_dir, trial_id) / "point.json", problems, remedy=RETRAIN):
            if trial_id not in run.trials and (record := read_point(run_dir, trial_id)) is not None:
                error = encodable(record.error) or None
                spent = {name: record.costs[name] for name in DEVICE_SECONDS}
                others.append({"trial_id": trial_id, "status": record.status, **spent, "error": error})
    return others


def _read_front(
    run_dir: Path, config: SweepConfig, records: Mapping[str, PointRecord], problems: list[Problem]
) -> Front | None:
    measured: list[tuple[PointRecord, dict[int, list[float]]]] = []
    for record in records.values():
        if record.status == "finished" and record.result is not None:
            folder = run_dir / record.evaluation
            with _reading(folder, problems, remedy=REMEASURE):
                _sound(folder)
                with _reading(folder / "prompts.parquet", problems, remedy=REMEASURE):
                    measured.append((record, _read_prompts(folder / "prompts.parquet", config.objective_names)))
    if not measured:
        return None
    prompt_numbers = tuple(sorted(set.intersection(*(set(values) for _, values in measured))))
    if not prompt_numbers:
        problems.append(
            Problem(
                code="MS-303",
                what="the points were measured on different held-out prompts",
                where=str(run_dir),
                wanted="at least one prompt that all evaluations share",
                remedy="run `modpo evaluate`: it measures the points anew whose evaluation settings changed",
            )
        )
        return None
    return Front(
        records=tuple(record for record, _ in measured),
        points=tuple(point_row(config, record) for record, _ in measured),
        prompt_numbers=prompt_numbers,
        values_PNK=np.array([[values[number] for _, values in measured] for number in prompt_numbers]),
    )


def _read_prompts(path: Path, names: Sequence[str]) -> dict[int, list[float]]:
    """Objective values of each prompt number."""
    columns = _read_columns(path, ("prompt_number", *names))
    values_PK = np.array([columns[name] for name in names], dtype=float).T
    if values_PK.size == 0 or not np.isfinite(values_PK).all():
        raise ValueError("objective values are missing or not finite")
    return dict(zip(columns["prompt_number"], values_PK.tolist(), strict=True))


def _read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        columns: dict[str, list[Any]] = file.read(columns=list(names)).to_pydict()
    if missing := sorted(set(names) - set(columns)):
        raise KeyError(f"no column {', '.join(missing)}")
    return columns


def _read_samples(run_dir: Path, front: Front, problems: list[Problem]) -> list[dict[str, Any]]:
    """The first response of every point to the same few held-out prompts."""
    numbers = front.prompt_numbers[:NUM_SAMPLE_PROMPTS]
    prompts: dict[int, str] = {}
    responses: dict[int, list[dict[str, str]]] = {number: [] for number in numbers}
    for record in front.records:
        path = run_dir / record.evaluation / "samples.parquet"
        with _reading(path, problems, remedy=REMEASURE):
            columns = _read_columns(path, ("prompt_number", "prompt", "response"))
            for number in numbers:
                row = columns["prompt_number"].index(number)
                prompts[number] = _shortened(columns["prompt"][row])
                response = {"trial_id": record.spec.trial_id, "response": _shortened(columns["response"][row])}
                responses[number].append(response)
    return [
        {"prompt_number": number, "prompt": prompt, "responses": responses[number]}
        for number, prompt in prompts.items()
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS] + "…"
