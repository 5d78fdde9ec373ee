"""What a piece of work starts from, on the node that does it: fetched once a node, every byte of it looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modpo.artifacts import is_complete, verified
from modpo.config.spec import Work
from modpo.orchestration.inputs import named_paths


def fetch_inputs(work: Work) -> None:
    """Has all artefacts that a piece of work may read on this node.

    Raises:
        SetupError: one of them is damaged, or the store cannot be reached.
    """
    for folder in _folders(work):
        if is_complete(folder):
            verified(folder)


def fetched_model(name_or_path: str) -> str:
    """A start model by the same name, on this node where it is one of the run's own."""
    if is_complete(Path(name_or_path)):
        verified(Path(name_or_path))
    return name_or_path


def _folders(work: Work) -> Iterator[Path]:
    """Those that are there by now, and others: a vertex starts before any reward is known."""
    config, inputs = work.config, work.inputs
    yield from map(Path, (inputs.prepared, inputs.start_model, inputs.reference))
    yield from (Path(folder) for folder in (inputs.rewards, inputs.pairs) if folder)
    if work.kind in ("rewards", "start", "point"):
        scored = [objective for objective in config.objectives if config.implicit_reward(objective) is not None]
        yield from (Path(inputs.vertices[o.name]) for o in scored if o.name in inputs.vertices)
    if work.kind in ("label", "rewards", "start", "point"):
        yield from map(Path, inputs.reward_models.values())
    artifacts = Path(work.run_dir) / "artifacts"
    named = {Path(node[key]) for node, key in named_paths(config.model_dump(mode="json")) if node[key] is not None}
    # The demo's world: files of the run that the config names.
    yield from {artifacts / path.relative_to(artifacts).parts[0] for path in named if path.is_relative_to(artifacts)}
