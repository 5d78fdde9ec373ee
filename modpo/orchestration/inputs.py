"""What a config names on disk, read and digested: rows, model files, reward code. Nothing here imports torch or Ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from modpo.artifacts import digest_of, file_sha256, folder_digest, is_complete, stage_path
from modpo.config.disk import DEMO_PREFIX, is_hub_id
from modpo.config.rewards import FunctionReward, ImplicitReward
from modpo.config.tree import SweepConfig
from modpo.data.demo import WORLD_VERSION
from modpo.data.loading import LoadedData, data_digest, load_data
from modpo.orchestration.plan import Inputs


def resolve_paths(config: SweepConfig, run_dir: Path) -> SweepConfig:
    """The config with every local path absolute, and every `demo:...` replaced by a file that was written for it.

    Workers run in folders of their own, where a relative path would lead elsewhere.
    """
    raw = config.model_dump(mode="json")
    world = _written_world(config, run_dir) if _mentions_demo(raw) else None

    def resolved(path: str | None) -> str | None:
        if path is not None and path.startswith(DEMO_PREFIX) and world is not None:
            return str(world / path.removeprefix(DEMO_PREFIX))
        return path if path is None or is_hub_id(path) else str(Path(path).absolute())

    raw["model"]["name_or_path"] = resolved(config.model.name_or_path)
    for node in [o.get("pairs") for o in raw["objectives"]] + [(raw["sft"] or {}).get("data")]:
        if node is not None:
            node["path"] = resolved(node["path"])
    for objective in raw["objectives"]:
        if (objective["reward"] or {}).get("adapter") is not None:
            objective["reward"]["adapter"] = resolved(objective["reward"]["adapter"])
    for section in filter(None, (raw["training"], raw["sft"])):
        section["deepspeed"]["config_file"] = resolved(section["deepspeed"]["config_file"])
    return SweepConfig.model_validate(raw)


def load_inputs(config: SweepConfig, data: LoadedData | None = None) -> tuple[LoadedData, Inputs]:
    """Reads all data, unless it has been read, and digests everything that the config refers to.

    Raises:
        InputError: all bad rows of all sources together.
    """
    data = data or load_data(config)
    return data, Inputs(data=data_digest(data), model=_model_digest(config), files=_file_digests(config))


def _file_digests(config: SweepConfig) -> dict[str, str]:
    """By the name that the config gives them."""
    rewards = [objective.reward for objective in config.objectives]
    functions = [reward.function for reward in rewards if isinstance(reward, FunctionReward)]
    adapters = [reward.adapter for reward in rewards if isinstance(reward, ImplicitReward) and reward.adapter]
    own = config.training.deepspeed.config_file
    return {
        **{name: source_digest(name) for name in [*functions, *filter(None, [config.evaluation.enumerate])]},
        **{path: folder_digest(Path(path)) for path in adapters},
        **({own: file_sha256(Path(own))} if own else {}),
    }


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


def _written_world(config: SweepConfig, run_dir: Path) -> Path:
    world = stage_path(run_dir, "world", digest_of([WORLD_VERSION, config.seed]))
    if not is_complete(world):
        # Only the demo needs torch before any worker starts: its untrained model is written here.
        from modpo.data.demo.world import write_world

        write_world(world, seed=config.seed)
    return world
