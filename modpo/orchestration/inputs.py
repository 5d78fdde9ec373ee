"""What a config names on disk, read and digested: rows, model files, reward code. Nothing here imports torch or Ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from modpo.artifacts import digest_of, file_sha256, folder_digest, is_complete, stage_path
from modpo.config.disk import DEMO_PREFIX
from modpo.config.tree import FunctionReward, ImplicitReward, SweepConfig
from modpo.data.demo import WORLD_VERSION
from modpo.data.loading import LoadedData, data_digest, load_data
from modpo.orchestration.plan import Inputs


def resolve_demo(config: SweepConfig, run_dir: Path) -> SweepConfig:
    """The config with every `demo:...` path replaced by a real one; the demo's files are written where needed."""
    raw = config.model_dump(mode="json")
    if not _mentions_demo(raw):
        return config
    world = stage_path(run_dir, "world", digest_of([WORLD_VERSION, config.seed]))
    if not is_complete(world):
        # Only the demo needs torch before any worker starts: its untrained model is written here.
        from modpo.data.demo.world import write_world

        write_world(world, seed=config.seed)
    return SweepConfig.model_validate(_resolved(raw, world))


def load_inputs(config: SweepConfig) -> tuple[LoadedData, Inputs]:
    """Reads all data and digests everything that the config refers to.

    Raises:
        InputError: all bad rows of all sources together.
    """
    data = load_data(config)
    functions: dict[str, str] = {}
    for objective in config.objectives:
        if isinstance(objective.reward, FunctionReward):
            functions[objective.reward.function] = source_digest(objective.reward.function)
        if isinstance(objective.reward, ImplicitReward) and objective.reward.adapter is not None:
            functions[objective.reward.adapter] = folder_digest(Path(objective.reward.adapter))
    return data, Inputs(data=data_digest(data), model=_model_digest(config), functions=functions)


def source_digest(dotted: str) -> str:
    """Digest of the source file of `module:function`, found without importing it."""
    spec = importlib.util.find_spec(dotted.partition(":")[0])
    return file_sha256(Path(spec.origin)) if spec is not None and spec.origin is not None else ""


def _model_digest(config: SweepConfig) -> str:
    path = Path(config.model.name_or_path)
    if path.is_dir():
        return folder_digest(path)
    return f"{config.model.name_or_path}@{config.model.revision or 'main'}"


def _mentions_demo(node: object) -> bool:
    if isinstance(node, dict):
        return any(_mentions_demo(value) for value in node.values())
    if isinstance(node, list):
        return any(_mentions_demo(value) for value in node)
    return isinstance(node, str) and node.startswith(DEMO_PREFIX)


def _resolved(node: object, world: Path) -> object:
    if isinstance(node, dict):
        return {key: _resolved(value, world) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(value, world) for value in node]
    if isinstance(node, str) and node.startswith(DEMO_PREFIX):
        return str(world / node.removeprefix(DEMO_PREFIX))
    return node
