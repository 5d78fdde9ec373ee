"""What a config names on disk, read and digested: rows, model files, reward code. Nothing here imports torch or Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modpo.artifacts import digest_of, file_sha256, is_complete, stage_path, verified
from modpo.config.disk import DEMO_PREFIX, is_hub_id
from modpo.config.points import ColumnRewards
from modpo.config.rewards import FunctionReward, ImplicitReward, ModelReward, TrainedReward
from modpo.config.tree import SweepConfig
from modpo.data.demo import WORLD_VERSION
from modpo.data.loading import LoadedData, data_digest, load_data
from modpo.orchestration.digests import Inputs
from modpo.orchestration.model_parts import files_digest, model_parts
from modpo.orchestration.own_code import code_digest


def resolve_paths(config: SweepConfig, run_dir: Path) -> SweepConfig:
    """The config with every local path absolute, and every `demo:...` replaced by a file that was written for it.

    Workers run in folders of their own, where a relative path would lead elsewhere.
    """
    raw = config.model_dump(mode="json")
    world = _written_world(config, run_dir) if _mentions_demo(raw) else None

    def resolved(path: str | None) -> str | None:
        if path is not None and path.startswith(DEMO_PREFIX) and world is not None:
            return str(world / path.removeprefix(DEMO_PREFIX))
        return path if path is None or "://" in path or is_hub_id(path) else str(Path(path).absolute())

    for node, key in named_paths(raw):
        node[key] = resolved(node[key])
    return SweepConfig.model_validate(raw)


def named_paths(raw: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every place of a config that may hold a local path."""
    yield raw["model"], "name_or_path"
    rewards = [objective["reward"] or {} for objective in raw["objectives"]]
    sections = [raw["training"], raw["sft"] or {}, raw["label"] or {}, *rewards]
    for section in sections:
        yield from ((section, key) for key in ("adapter", "name_or_path") if section.get(key) is not None)
        yield from ((section[key], "path") for key in ("data", "prompts") if section.get(key) is not None)
        if "deepspeed" in section:
            yield section["deepspeed"], "config_file"
    yield from ((objective["pairs"], "path") for objective in raw["objectives"] if objective["pairs"] is not None)


def load_inputs(config: SweepConfig, data: LoadedData | None = None) -> tuple[LoadedData, Inputs]:
    """Reads all data, unless it has been read, and digests everything that the config refers to.

    Raises:
        InputError: all bad rows of all sources together.
    """
    data = data or load_data(config)
    model = model_parts(config.model.name_or_path, config.model.revision)
    inputs = Inputs(
        data=data_digest(data),
        model=model["weights"],
        files=_file_digests(config),
        column_rewards=column_rewards(data),
        model_config=model["config"],
        tokenizer=model["tokenizer"],
        chat_template=model["chat template"],
    )
    return data, inputs


def column_rewards(data: LoadedData) -> ColumnRewards:
    """The rewards that stand in the rows of each objective's pairs."""
    return {name: loaded.column_rewards for name, loaded in data.objectives.items()}


def _file_digests(config: SweepConfig) -> dict[str, str]:
    """By the name that the config gives them."""
    digests: dict[str, str] = {}
    for reward in (objective.reward for objective in config.objectives):
        if isinstance(reward, FunctionReward):
            digests[reward.function] = code_digest(reward.function)
        if isinstance(reward, ImplicitReward) and reward.adapter:
            digests[reward.adapter] = files_digest(reward.adapter)
        if isinstance(reward, ModelReward):
            digests[reward.name_or_path] = files_digest(reward.name_or_path, reward.revision)
        if isinstance(reward, TrainedReward) and reward.name_or_path:
            digests[reward.name_or_path] = files_digest(reward.name_or_path)
    if config.evaluation.enumerate:
        digests[config.evaluation.enumerate] = code_digest(config.evaluation.enumerate)
    own = config.training.deepspeed.config_file
    return digests | ({own: file_sha256(Path(own))} if own else {})


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
    return verified(world)
