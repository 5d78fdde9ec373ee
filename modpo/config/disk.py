"""What a sweep file names outside of itself: models, data, code, packages. Looked for, never imported or loaded."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from modpo.config.quantised import partitioned
from modpo.config.rewards import FunctionReward, ImplicitReward, ModelReward, TrainedReward
from modpo.config.sources import SourceConfig
from modpo.config.tree import SweepConfig
from modpo.errors import Problem, shown

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
DEMO_PREFIX = "demo:"


def check_disk(config: SweepConfig) -> list[Problem]:
    """Every problem of what a well-typed config names outside of itself."""
    return [
        *_check_model(config),
        *_check_sources(config),
        *_check_rewards(config),
        *_check_functions(config),
        *_check_deepspeed_files(config),
        *_check_trackers(config),
    ]


def is_hub_id(path: str) -> bool:
    """Whether a path that is not on this disk reads as a Hugging Face id."""
    return bool(HUB_ID.match(path)) and not path.endswith(DATA_SUFFIXES) and not Path(path).exists()


def _check_model(config: SweepConfig) -> Iterator[Problem]:
    name = config.model.name_or_path
    if name.startswith(DEMO_PREFIX) or is_hub_id(name):
        return
    if not (Path(name) / "config.json").is_file():
        yield Problem(
            code="MS-141",
            what="the model folder has no config.json",
            where="model.name_or_path",
            got=shown(name),
            wanted="a Hugging Face id (org/name) or a folder written by save_pretrained",
            remedy="check the path, or set --set model.name_or_path=...",
        )


def is_elsewhere(path: str) -> bool:
    """Whether only reading can tell if it is there: the demo's own files, an object store, the hub."""
    return path.startswith(DEMO_PREFIX) or "://" in path or is_hub_id(path)


def _named_sources(config: SweepConfig) -> Iterator[tuple[str, SourceConfig]]:
    for index, objective in enumerate(config.objectives):
        if objective.pairs is not None:
            yield f"objectives.{index}.pairs.path", objective.pairs
        if isinstance(objective.reward, TrainedReward) and objective.reward.data is not None:
            yield f"objectives.{index}.reward.data.path", objective.reward.data
    if config.sft is not None and config.sft.data is not None:
        yield "sft.data.path", config.sft.data
    if config.label is not None:
        yield "label.prompts.path", config.label.prompts


def _check_sources(config: SweepConfig) -> Iterator[Problem]:
    for where, source in _named_sources(config):
        path = Path(source.path)
        if is_elsewhere(source.path):
            continue
        if not path.exists():
            yield Problem(
                code="MS-142",
                what="a data file does not exist",
                where=where,
                got=shown(source.path),
                wanted="a .jsonl, .json, .csv or .parquet file, a folder, s3://..., or a hub id (org/name)",
                remedy="check the path; relative paths start at the working directory",
            )
        elif path.is_file() and path.suffix not in DATA_SUFFIXES:
            yield Problem(
                code="MS-143",
                what="a data file has an unknown ending",
                where=where,
                got=shown(path.name),
                wanted=", ".join(DATA_SUFFIXES),
                remedy="convert the file, or rename it if only the ending is wrong",
            )


def _check_rewards(config: SweepConfig) -> Iterator[Problem]:
    """Adapters and reward models that are named as folders."""
    for index, objective in enumerate(config.objectives):
        reward, where = objective.reward, f"objectives.{index}.reward"
        adapter = reward.adapter if isinstance(reward, ImplicitReward) else None
        if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
            yield Problem(
                code="MS-128",
                what="the adapter folder has no adapter_config.json",
                where=f"{where}.adapter",
                got=shown(adapter),
                wanted="a folder written by PEFT's save_pretrained",
                remedy="check the path",
            )
        model = reward.name_or_path if isinstance(reward, ModelReward | TrainedReward) else None
        if model is not None and not is_hub_id(model) and not (Path(model) / "config.json").is_file():
            yield Problem(
                code="MS-147",
                what="the folder of a reward model has no config.json",
                where=f"{where}.name_or_path",
                got=shown(model),
                wanted="a Hugging Face id (org/name) or a folder written by save_pretrained",
                remedy="check the path",
            )


def _check_functions(config: SweepConfig) -> Iterator[Problem]:
    """Finds modules without importing them: reward code runs only in the workers that score."""
    named = [
        (f"objectives.{index}.reward.function", objective.reward.function)
        for index, objective in enumerate(config.objectives)
        if isinstance(objective.reward, FunctionReward)
    ]
    if config.evaluation.enumerate is not None:
        named.append(("evaluation.enumerate", config.evaluation.enumerate))
    for where, dotted in named:
        module, _, function = dotted.partition(":")
        if module.partition(".")[0] in sys.stdlib_module_names:
            yield Problem(
                code="MS-137",
                what="a function of Python's standard library gives no rewards",
                where=where,
                got=shown(dotted),
                wanted="a function of your own: def name(prompts, responses)",
                remedy="write one in a module of the working directory, and name that",
            )
            continue
        source = _module_source(module)
        if source is None:
            yield Problem(
                code="MS-144",
                what="a module cannot be found",
                where=where,
                got=shown(module),
                wanted="a module that Python can import from the working directory or the environment",
                remedy="check the name, or install the package that has it",
            )
        elif not re.search(rf"^\s*(def\s+{function}\b|{function}\s*=|from\s.*\b{function}\b)", source, re.MULTILINE):
            yield Problem(
                code="MS-145",
                what=f"module {module!r} has no function {function!r}",
                where=where,
                wanted="def name(prompts, responses)",
                remedy="check the name after the colon",
            )


def module_file(module: str) -> Path | None:
    """Source file of a module, found without importing it or the packages above it, as `importlib.util` would."""
    parts, path, spec = module.split("."), None, None
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        loaded = getattr(sys.modules.get(name), "__spec__", None)
        found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = loaded or next((spec for spec in found if spec is not None), None)
        if spec is None or (spec.submodule_search_locations is None and depth < len(parts) - 1):
            return None
        path = spec.submodule_search_locations
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and Path(origin).is_file() else None


def _module_source(module: str) -> str | None:
    file = module_file(module)
    return None if file is None else file.read_text(encoding="utf-8", errors="replace")


def _check_deepspeed_file(path: str, where: str, *, load_in_4bit: bool) -> Iterator[Problem]:
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(settings, dict):
            zero = settings.get("zero_optimization")
            if load_in_4bit and isinstance(zero, dict) and zero.get("stage") == 3:
                yield partitioned(where)
            return
        reason = "not a JSON object"
    except (OSError, ValueError) as error:
        reason = str(error)
    yield Problem(
        code="MS-153",
        what="the DeepSpeed file cannot be used",
        where=where,
        got=shown(reason),
        wanted="a JSON object of DeepSpeed settings",
        remedy="check the path and its JSON",
    )


def _check_deepspeed_files(config: SweepConfig) -> Iterator[Problem]:
    for section, part in (("training", config.training), ("sft", config.sft)):
        if part is not None and part.deepspeed.config_file is not None:
            yield from _check_deepspeed_file(
                part.deepspeed.config_file,
                f"{section}.deepspeed.config_file",
                load_in_4bit=config.model.load_in_4bit,
            )


def _check_trackers(config: SweepConfig) -> Iterator[Problem]:
    for name in ("wandb", "mlflow"):
        if getattr(config.trackers, name) is not None and importlib.util.find_spec(name) is None:
            yield Problem(
                code="MS-146",
                what=f"the tracker {name} is not installed",
                where=f"trackers.{name}",
                wanted=f"the package {name} in this environment",
                remedy=f"pip install 'modpo[{name}]', or remove trackers.{name}",
            )
