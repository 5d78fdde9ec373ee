"""Everything that can be wrong before a worker starts, looked for in one pass."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modpo.config import SweepConfig, read_config
from modpo.config.disk import DEMO_PREFIX, is_hub_id
from modpo.data.loading import LoadedData, read_data
from modpo.errors import InputError, ModpoError, Problem, SetupError
from modpo.orchestration.inputs import resolve_paths
from modpo.orchestration.machine import local_nodes
from modpo.orchestration.resources import plan_resources

# Problems whose cause is a path that data loading would only stumble over again.
MISSING_SOURCE_CODES = frozenset({"MS-142", "MS-143"})


@dataclass(frozen=True)
class Preflight:
    """A config and its data, found in order."""

    config: SweepConfig
    data: LoadedData


def preflight(path: str | Path, *, overrides: Sequence[str] = ()) -> Preflight:
    """Checks a sweep file and everything it refers to; starts nothing and writes nothing.

    Raises:
        InputError: config or data are wrong (all problems, those of the machine included).
        SetupError: only the machine lacks something.
    """
    config, problems = read_config(path, overrides=overrides)
    setup: list[Problem] = []
    data: LoadedData | None = None
    if config is not None:
        setup = [*_check_storage(config), *_check_machine(config)]
        if not any(problem.code in MISSING_SOURCE_CODES for problem in problems):
            with tempfile.TemporaryDirectory(prefix="modpo-preflight-") as scratch:
                resolved = resolve_paths(config, Path(scratch))
                data, found = read_data(resolved)
                problems += found
                problems += _check_model(resolved)
    if problems:
        raise InputError([*problems, *setup])
    if setup:
        raise SetupError(setup)
    assert config is not None and data is not None, "a config without problems has data"
    return Preflight(config, data)


def _check_storage(config: SweepConfig) -> Iterator[Problem]:
    """Looks for write permission without writing."""
    folder = (Path(config.storage_path) / config.name).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Problem(
            code="MS-402",
            what="the storage path cannot be written",
            where="storage_path",
            got=str(existing),
            wanted="a folder that this user may write to",
            remedy="choose another storage_path, or mend its permissions",
        )


def _check_machine(config: SweepConfig) -> tuple[Problem, ...]:
    """Whether one trial fits this machine; a cluster is asked when it is connected to."""
    if os.environ.get("RAY_ADDRESS"):
        return ()
    try:
        plan_resources(config.resources, local_nodes(), num_trials=1)
    except SetupError as error:
        return error.problems
    return ()


def _check_model(config: SweepConfig) -> tuple[Problem, ...]:
    """Loads tokenizer and model config, not the weights."""
    name = config.model.name_or_path
    if name.startswith(DEMO_PREFIX) or not (is_hub_id(name) or (Path(name) / "config.json").is_file()):
        return ()
    # transformers takes seconds to import, and only a config that got so far needs it.
    from modpo.models import check_loadable

    try:
        check_loadable(config.model)
    except ModpoError as error:
        return error.problems
    return ()
