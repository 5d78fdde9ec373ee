"""YAML and `--set` overrides to a SweepConfig, with every mistake reported at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modpo.config.checks import check_config
from modpo.config.tree import SweepConfig
from modpo.config.yaml_file import NotPlainError, parse_yaml, read_yaml
from modpo.errors import InputError, Problem, closest, cut, shown
from modpo.masking import secrets_in
from modpo.storage import address

# What a faulty required key is replaced by, only so that the rest of the file can be checked in the same pass.
STAND_IN_MODEL = "unnamed/model"
_STAND_INS: dict[str, Any] = {"name": "unnamed", "model": {"name_or_path": STAND_IN_MODEL}}


def load_config(path: str | Path, *, overrides: Sequence[str] = ()) -> SweepConfig:
    """Reads a sweep file, applies `a.b=c` overrides and checks everything that needs no data.

    Relative paths inside the file stay relative to the working directory, as on a command line.

    Raises:
        InputError: all mistakes of the file, each with its config path and remedy.
    """
    config, problems = read_config(path, overrides=overrides)
    if problems:
        raise InputError(problems)
    assert config is not None, "a config without problems was parsed"
    return config


def read_config(path: str | Path, *, overrides: Sequence[str] = ()) -> tuple[SweepConfig | None, list[Problem]]:
    """The config as far as it can be read, and every problem of it: for callers that look for problems elsewhere too.

    Raises:
        InputError: the file cannot be read, or is not YAML.
    """
    raw = read_yaml(Path(path))
    problems = [problem for override in overrides for problem in _apply_override(raw, override)]
    problems += _secrets_of(raw)
    config, found = _parse(raw)
    problems += found
    checked = check_config(config) if config is not None else []
    return config, [*problems, *(problem for problem in checked if not _follows_from(problem, found))]


def override_config(config: SweepConfig, overrides: Sequence[str], *, run_dir: Path) -> SweepConfig:
    """A stored config with overrides, for its run at the place where that now stands.

    Raises:
        InputError: all mistakes of the overrides.
    """
    raw = config.model_dump(mode="json") | {"name": run_dir.name, "storage_path": address(run_dir.parent)}
    problems = [problem for override in overrides for problem in _apply_override(raw, override)]
    changed, found = _parse(raw)
    if problems or found or changed is None:
        raise InputError([*problems, *found])
    return changed


def parse_config(raw: dict[str, Any]) -> SweepConfig:
    """A config from its JSON form, as the run's own manifest stores it; the disk is not looked at."""
    return SweepConfig.model_validate(raw)


def config_schema() -> dict[str, Any]:
    """JSON schema of the sweep file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **SweepConfig.model_json_schema()}


def _secrets_of(raw: dict[str, Any]) -> Iterator[Problem]:
    """A sweep file is copied into the run's folder, to trackers and to a cluster: no place for a secret."""
    for path in secrets_in(raw):
        yield Problem(
            code="MS-138",
            what="a secret stands in the sweep file",
            where=path,
            got="a value that is not shown",
            wanted="no secret: libraries find theirs in the environment or in files of the home folder",
            remedy="remove it, change it where it was made, and set WANDB_API_KEY, HF_TOKEN or the like instead; "
            "docs/cluster.md#secrets",
        )


def _apply_override(raw: dict[str, Any], override: str) -> Iterable[Problem]:
    """Writes one `a.b=value` into the raw tree; list items go by index, objectives also by name."""
    key, equals, text = override.partition("=")
    where = f"--set {cut(override)}"
    if not equals or not key:
        yield _override_problem(where, "an override has the form a.b=value")
        return
    try:
        value = parse_yaml(text)
    except NotPlainError:
        yield _override_problem(where, "the value is not valid YAML")
        return
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = _child(node, part)
    slot = _slot(node, last)
    if slot is None:
        yield _override_problem(where, f"{'.'.join(parents) or 'the file'} has no item {last!r}")
    else:
        node[slot] = value


def _child(node: Any, part: str) -> Any:
    slot = _slot(node, part)
    if slot is None or (isinstance(node, dict) and slot not in node):
        return None
    return node[slot]


def _slot(node: Any, part: str) -> str | int | None:
    if isinstance(node, dict):
        return part
    if isinstance(node, list):
        names = [item.get("name") if isinstance(item, dict) else None for item in node]
        if part in names:
            return names.index(part)
        if part.isdecimal() and int(part) < len(node):
            return int(part)
    return None


def _override_problem(where: str, what: str) -> Problem:
    return Problem(code="MS-103", what=what, where=where, wanted="--set training.beta=0.2", remedy="mend the override")


def _parse(raw: dict[str, Any]) -> tuple[SweepConfig | None, list[Problem]]:
    """The config, or what can be checked of it: faulty optional keys are left out, so that one pass shows all."""
    try:
        config = SweepConfig.model_validate(raw)
        return config, list(_flags_for_numbers(raw, config.model_dump(), ""))
    except ValidationError as error:
        problems = [_problem(detail, raw) for detail in error.errors(include_url=False)]
        pruned = copy.deepcopy(raw)
        for detail in error.errors():
            _remove(pruned, _keys(detail["loc"], raw))
        pruned = {**_STAND_INS, **pruned}
        try:
            return SweepConfig.model_validate(pruned), problems
        except ValidationError:
            return None, problems


def _flags_for_numbers(raw: Any, taken: Any, where: str) -> Iterator[Problem]:
    """Python, and pydantic with it, takes true for 1: `max_steps: true` would train one step."""
    if isinstance(raw, dict) and isinstance(taken, dict):
        for key in raw.keys() & taken.keys():
            yield from _flags_for_numbers(raw[key], taken[key], f"{where}.{key}".removeprefix("."))
    elif isinstance(raw, list) and isinstance(taken, list | tuple):
        for index, (item, found) in enumerate(zip(raw, taken, strict=True)):
            yield from _flags_for_numbers(item, found, f"{where}.{index}")
    elif isinstance(raw, bool) and not isinstance(taken, bool):
        yield Problem(
            code="MS-113",
            what="a value is not what this key takes",
            where=where,
            got=str(raw).lower(),
            wanted="a number, not true or false",
            remedy="correct the value; docs/config.md lists every key",
        )


def _follows_from(problem: Problem, faults: Sequence[Problem]) -> bool:
    """Whether a check may only have seen that a faulty key below its own place was left out."""
    return "." in problem.where and any(fault.where.startswith(f"{problem.where}.") for fault in faults)


def _problem(detail: ErrorDetails, raw: dict[str, Any]) -> Problem:
    keys = _keys(detail["loc"], raw)
    path, last = ".".join(cut(str(key)) for key in keys), str(keys[-1] if keys else "")
    if detail["type"] == "extra_forbidden":
        known = _known_keys(keys)
        return Problem(
            code="MS-111",
            what=f"unknown key {shown(last)}{closest(last, known)}",
            where=path,
            wanted=f"one of: {', '.join(known)}",
            remedy="correct or remove the key",
        )
    if detail["type"] == "missing":
        return Problem(code="MS-112", what=f"key {last!r} is missing", where=path, remedy="add the key")
    return Problem(
        code="MS-113",
        what="a value is not what this key takes",
        where=path,
        got=shown(detail["input"]),
        wanted=_wanted(detail),
        remedy=_remedy(detail),
    )


def _wanted(detail: ErrorDetails) -> str:
    """pydantic's message without its own words for what it is."""
    if detail["type"] == "model_type":
        return "keys with values"
    return detail["msg"].removeprefix("Value error, ")


def _remedy(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "string_type" and isinstance(value, int | float):
        return "put it in quotes where it is meant as text"
    return "correct the value; docs/config.md lists every key"


def _keys(loc: Sequence[str | int], raw: dict[str, Any]) -> list[str | int]:
    """The location as the user wrote it: pydantic adds the member of a union that it tried, which is no key."""
    keys: list[str | int] = []
    node: Any = raw
    for position, part in enumerate(loc):
        is_tag = isinstance(node, dict) and node.get("type") == part and position < len(loc) - 1
        if is_tag or (isinstance(part, str) and not isinstance(node, dict)):
            continue
        keys.append(part)
        node = _child(node, str(part))
    return keys


def _known_keys(keys: Sequence[str | int]) -> list[str]:
    """Keys that the schema has beside the unknown last one; those of all members where there is a choice."""
    schema = SweepConfig.model_json_schema()
    nodes = [schema]
    for part in keys[:-1]:
        targets = [target for node in nodes for target in _targets(node, schema)]
        nodes = [
            target["items"] if isinstance(part, int) else target["properties"][part]
            for target in targets
            if (isinstance(part, int) and "items" in target) or part in target.get("properties", {})
        ]
    return sorted({key for node in nodes for target in _targets(node, schema) for key in target.get("properties", {})})


def _targets(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The node's possible meanings: references followed, `anyOf` and `oneOf` opened."""
    if "$ref" in node:
        return _targets(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    choices = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    return [target for choice in choices for target in _targets(choice, schema)] or [node]


def _remove(tree: dict[str, Any], keys: Sequence[str | int]) -> None:
    node: Any = tree
    for part in keys[:-1]:
        node = _child(node, str(part))
    if isinstance(node, dict) and keys:
        node.pop(keys[-1], None)
