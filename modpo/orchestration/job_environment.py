"""What a Ray job takes along: command, variables and files. Ray shows and logs all of it: nothing of it is a secret."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package

from modpo.config.disk import is_elsewhere
from modpo.config.tree import SweepConfig
from modpo.errors import InputError, Problem, shown
from modpo.masking import PLACE_NAME, SECRET_NAME
from modpo.orchestration.inputs import named_paths
from modpo.orchestration.preflight import check_without_files, preflight
from modpo.storage import address, scheme_of, working_copy

logger = logging.getLogger(__name__)

# How a secret begins: refused even where it is too short to be a real one.
SECRET_VALUE = re.compile(
    r"^(hf_|gh[opsu]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA|ASIA)|://[^/\s@]*:[^/\s@]*@|-----BEGIN [A-Z ]*PRIVATE"
)
VARIABLE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


@dataclass(frozen=True)
class JobRequest:
    """A checked sweep, ready to be submitted.

    Attributes:
        run: its name.
        run_path: folder of the run on the nodes.
        entrypoint: the shell command that the head node starts.
        runtime_env: what Ray gives to every process of the job; the working directory as a local zip file.
        warnings: what the preflight gives reason to doubt.
    """

    run: str
    run_path: str
    entrypoint: str
    runtime_env: dict[str, Any]
    warnings: tuple[Problem, ...]


@contextmanager
def packed_job(
    sweep: Path,
    *,
    overrides: Sequence[str],
    working_dir: Path,
    variables: Mapping[str, str],
    files_on_nodes: bool = False,
) -> Iterator[JobRequest]:
    """Checks a sweep as `modpo validate` does and packs what its job needs, for the length of a block.

    Args:
        files_on_nodes: what the sweep names by absolute paths is not on this machine: the job will check it.

    Raises:
        InputError: the sweep file or its data are wrong, or something that it names would not be there.
    """
    sweep, working_dir = sweep.resolve(), working_dir.resolve()
    if not working_dir.is_dir():
        raise InputError(
            Problem(
                code="MS-197",
                what="the working directory is no folder",
                where="--working-dir",
                got=shown(str(working_dir)),
                remedy="name the folder that reward functions and relative paths start from",
            )
        )
    with _working_in(working_dir), tempfile.TemporaryDirectory(prefix="modpo-job-") as scratch:
        config, warnings = _checked(sweep, overrides, files_on_nodes=files_on_nodes)
        settings = job_settings()
        package = Path(scratch) / "working_dir.zip"
        excludes = [*settings["excludes"], *_own_excludes(working_dir, Path(config.storage_path))]
        sweep_name = pack(working_dir, package, sweep=sweep, excludes=excludes)
        if problems := [*_check_storage_path(config), *_check_files(config, working_dir, package)]:
            raise InputError(problems)
        command = ["python", "-m", "modpo", "run", sweep_name]
        command += [part for override in overrides for part in ("--set", override)]
        yield JobRequest(
            run=config.name,
            run_path=address(working_copy(config.storage_path) / config.name),
            entrypoint=shlex.join(command),
            runtime_env={"working_dir": str(package), "env_vars": {**settings["env_vars"], **variables}},
            warnings=warnings,
        )


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Relative paths and reward functions are looked for in a folder, as the job will do."""
    sys.path.insert(0, str(folder))
    try:
        with chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _checked(sweep: Path, overrides: Sequence[str], *, files_on_nodes: bool) -> tuple[SweepConfig, tuple[Problem, ...]]:
    if files_on_nodes:
        return check_without_files(sweep, overrides=overrides), ()
    found = preflight(sweep, overrides=overrides, here=False)
    return found.config, found.warnings


def job_settings() -> dict[str, Any]:
    """The package's own runtime_env.yaml."""
    text = files("modpo.orchestration").joinpath("runtime_env.yaml").read_text(encoding="utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def named_variables(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The named variables of this shell, for the job.

    Raises:
        InputError: some look like secrets, are not set, or are no names; no value is ever shown.
    """
    problems = [problem for name in names if (problem := _problem_of(name, environment)) is not None]
    if problems:
        raise InputError(problems)
    return {name: environment[name] for name in names}


def _problem_of(name: str, environment: Mapping[str, str]) -> Problem | None:
    # A value that was written behind the name may be the secret itself.
    bare = name.partition("=")[0]
    if "=" in name or not VARIABLE_NAME.match(name):
        return Problem(
            code="MS-192",
            what="--env takes the name of a variable, and sends its value in this shell",
            where=f"--env {shown(bare)}",
            wanted="a name alone, such as NCCL_DEBUG",
            remedy="export the variable here, or set it on the nodes",
        )
    value = environment.get(name)
    names_a_place = PLACE_NAME.search(name) and (value is None or Path(value).is_absolute())
    if (SECRET_NAME.search(name) and not names_a_place) or (value is not None and SECRET_VALUE.search(value)):
        return Problem(
            code="MS-191",
            what="a secret does not go into a job: Ray shows its variables in logs and in the Jobs API",
            where=f"--env {name}",
            wanted="names of variables that anyone may read",
            remedy="put it into a file on each node that only its user can read (~/.cache/huggingface/token for the "
            "hub, ~/.netrc for W&B, chmod 600), or into the environment of the nodes' `ray start`",
        )
    if value is None:
        return Problem(
            code="MS-192",
            what="a variable that the job is to get is not set here",
            where=f"--env {name}",
            remedy=f"export {name}, or leave it out",
        )
    return None


def pack(working_dir: Path, target: Path, *, sweep: Path, excludes: Sequence[str]) -> str:
    """Zips a folder as Ray does, .gitignore and .rayignore included, and returns the sweep file's name in there.

    The sweep file travels wherever it lies, and though it may be excluded.

    Raises:
        InputError: there is more than Ray takes.
    """
    create_package(str(working_dir), target, include_gitignore=True, excludes=list(excludes), logger=logger)
    inside = sweep.is_relative_to(working_dir)
    name = sweep.relative_to(working_dir).as_posix() if inside else f"submitted/{sweep.name}"
    with zipfile.ZipFile(target, "a") as archive:
        if name not in archive.namelist():
            # Without a date: the same files are the same package, and are uploaded once.
            archive.writestr(zipfile.ZipInfo(name), sweep.read_bytes())
        largest = sorted(archive.infolist(), key=lambda member: -member.file_size)[:3]
    if target.stat().st_size >= GCS_STORAGE_MAX_SIZE:
        raise InputError(
            Problem(
                code="MS-198",
                what="the working directory is too large for a job",
                where=str(working_dir),
                got=", ".join(f"{member.filename} {member.file_size / 2**20:.0f} MiB" for member in largest),
                wanted=f"less than {GCS_STORAGE_MAX_SIZE / 2**20:.0f} MiB in all",
                remedy="name what need not travel in a .rayignore file there, or give a smaller --working-dir",
            )
        )
    return name


def _own_excludes(working_dir: Path, storage_path: Path) -> Iterator[str]:
    """Virtual environments by any name, and the runs themselves where they lie below."""
    yield from (f"/{marker.parent.name}/" for marker in sorted(working_dir.glob("*/pyvenv.cfg")))
    if storage_path.is_relative_to(working_dir) and storage_path != working_dir:
        yield f"/{storage_path.relative_to(working_dir).as_posix()}/"


def _check_storage_path(config: SweepConfig) -> Iterator[Problem]:
    if scheme_of(config.storage_path) is None and not Path(config.storage_path).is_absolute():
        yield Problem(
            code="MS-193",
            what="the storage path of a job is relative: the run would end with the job's own folder",
            where="storage_path",
            got=shown(config.storage_path),
            wanted="an absolute path on a file system that all nodes share, or s3://...",
            remedy="--set storage_path=/mnt/shared/runs, or whatever the nodes mount",
        )


def _check_files(config: SweepConfig, working_dir: Path, package: Path) -> Iterator[Problem]:
    """Files that the sweep names by relative paths: there here, but not in the package."""
    with zipfile.ZipFile(package) as archive:
        travelling = set(archive.namelist())
    for node, key in named_paths(config.model_dump(mode="json")):
        named = node[key]
        if named is None or is_elsewhere(named) or Path(named).is_absolute():
            continue
        path = working_dir / named
        members = [path] if path.is_file() else [member for member in path.rglob("*") if member.is_file()]
        left_out = [m for m in members if _name_in(working_dir, m) not in travelling]
        if left_out:
            yield Problem(
                code="MS-194",
                what="a file that the sweep names does not travel with the job",
                where=shown(named),
                got=f"{len(left_out)} of {len(members)} files are excluded or outside of the working directory",
                wanted="an absolute path on a file system that all nodes share",
                remedy="give that path; small files may travel: leave them out of .gitignore, data/ and runs/",
            )


def _name_in(working_dir: Path, path: Path) -> str | None:
    """A path as the package names it; `..` may lead out of it."""
    path = Path(os.path.normpath(path))
    return path.relative_to(working_dir).as_posix() if path.is_relative_to(working_dir) else None
