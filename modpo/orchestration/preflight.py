"""Everything that can be wrong before a worker starts, looked for in one pass."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modpo.config import SweepConfig, read_config
from modpo.config.disk import DEMO_PREFIX, is_hub_id
from modpo.config.load import STAND_IN_MODEL
from modpo.config.points import training_sources, weight_vectors
from modpo.config.quantised import PACKAGE, not_installed
from modpo.config.rewards import ModelReward, TrainedReward
from modpo.core.weights import WeightVector, auto_primary
from modpo.data.labels import LabelFacts, label_facts, warn_of_labels
from modpo.data.loading import LoadedData, read_data
from modpo.errors import InputError, ModpoError, Problem, SetupError
from modpo.orchestration.inputs import column_rewards, resolve_paths
from modpo.orchestration.machine import local_nodes
from modpo.orchestration.resources import check_workers, plan_resources
from modpo.storage import check_reachable, check_url, scheme_of

# Problems whose cause is a path that data loading would only stumble over again.
MISSING_SOURCE_CODES = frozenset({"MS-142", "MS-143"})
# Folders and files that are not on this machine.
ABSENT_CODES = frozenset({"MS-128", "MS-141", "MS-142", "MS-147"})


# Curvature grows with 1 / w_k^2: a hundred times that of plain DPO here.
SMALL_WEIGHT = 0.1
# And a million times here: a pair may move the policy by beta / w, and the optimiser no longer in any direction.
LEAST_WEIGHT = 0.001


@dataclass(frozen=True)
class Preflight:
    """A config and its data, found in order.

    Attributes:
        facts: what the labels say before any reward is known.
        warnings: reasons for doubt that stop nothing.
        sample: lines that show one pair as the model will see it.
    """

    config: SweepConfig
    data: LoadedData
    facts: LabelFacts
    warnings: tuple[Problem, ...]
    sample: tuple[str, ...]


def preflight(path: str | Path, *, overrides: Sequence[str] = (), here: bool = True) -> Preflight:
    """Checks a sweep file and everything it refers to; starts nothing and writes nothing.

    Args:
        here: whether this machine runs the sweep, or its storage and resources do not matter.

    Raises:
        InputError: config or data are wrong (all problems, those of the machine included).
        SetupError: only the machine lacks something.
    """
    config, problems = read_config(path, overrides=overrides)
    setup: list[Problem] = []
    found: Preflight | None = None
    if config is not None:
        setup = [*check_storage(config), *_check_machine(config)] if here else []
        if not any(problem.code in MISSING_SOURCE_CODES for problem in problems):
            with tempfile.TemporaryDirectory(prefix="modpo-preflight-") as scratch:
                resolved = resolve_paths(config, Path(scratch))
                data, faults = read_data(resolved)
                problems += faults
                problems += _check_columns(resolved, data) if not problems else ()
                problems += _check_weights(resolved, data) if not problems else ()
                problems += _check_model(resolved)
                found = _look_closer(config, resolved, data) if not problems else None
    if problems:
        raise InputError([*problems, *setup])
    if setup:
        raise SetupError(setup)
    assert found is not None, "a config without problems has data"
    return found


def check_without_files(path: str | Path, *, overrides: Sequence[str] = ()) -> SweepConfig:
    """Checks a sweep file as far as that goes without what it names by absolute paths: only the nodes have it.

    Raises:
        InputError: all other mistakes of the file.
    """
    config, problems = read_config(path, overrides=overrides)
    left = [problem for problem in problems if not (problem.code in ABSENT_CODES and problem.got.startswith("'/"))]
    if left or config is None:
        raise InputError(left)
    return config


def _look_closer(config: SweepConfig, resolved: SweepConfig, data: LoadedData) -> Preflight:
    """What a person should see of data in which nothing is wrong.

    Raises:
        InputError: the data has chat messages, and the tokenizer no template for them.
    """
    from modpo.data.rendered import rendered_sample, warn_of_template
    from modpo.data.tokenize import Encoder, load_tokenizer

    facts = label_facts(data)
    encoder = Encoder(load_tokenizer(resolved.model.name_or_path, resolved.model.revision), resolved.data)
    sample = rendered_sample(encoder, data)
    warnings = (*warn_of_labels(config, facts), *_warn_of_weights(config, data), *warn_of_template(encoder, data))
    return Preflight(config, data, facts, warnings, tuple(sample))


def _check_weights(config: SweepConfig, data: LoadedData) -> Iterator[Problem]:
    """Points whose loss would be divided by next to nothing."""
    for vector, primary in _divisors(config, data):
        if vector[primary] < LEAST_WEIGHT:
            yield Problem(
                code="MS-130",
                what="the primary objective of a point has next to no weight, and its loss is divided by it",
                where="sweep.weights",
                got=f"{_named(config, vector)}: beta / w is {config.training.beta / vector[primary]:.3g} for "
                f"{config.objective_names[primary]}",
                wanted=f"at least {LEAST_WEIGHT:g}, or exactly 0 and another objective with pairs",
                remedy="write 0 for it and leave sweep.primary at auto, or take `loss_type: regression`, which divides "
                "by nothing",
            )


def _warn_of_weights(config: SweepConfig, data: LoadedData) -> Iterator[Problem]:
    """Points whose primary objective has so little weight that training is hard on the optimiser."""
    for vector, primary in _divisors(config, data):
        if vector[primary] <= SMALL_WEIGHT:
            yield Problem(
                code="MS-719",
                what="the primary objective of a point has little weight, and its loss is divided by it",
                where=_named(config, vector),
                got=f"{vector[primary]:g} for {config.objective_names[primary]}: "
                f"{vector[primary] ** -2:.0f} times the curvature of DPO",
                wanted=f"above {SMALL_WEIGHT:g}",
                remedy="give pairs to an objective with more weight, lower training.learning_rate, or take "
                "`loss_type: regression`, which divides by nothing",
            )


def _divisors(config: SweepConfig, data: LoadedData) -> Iterator[tuple[WeightVector, int]]:
    """Each weight vector with the objective by whose weight its loss is divided."""
    if config.training.loss_type != "regression":
        columns = column_rewards(data)
        for vector in weight_vectors(config):
            yield vector, auto_primary(vector, training_sources(config, vector, columns))


def _named(config: SweepConfig, vector: WeightVector) -> str:
    return ", ".join(f"{name}: {weight:g}" for name, weight in zip(config.objective_names, vector, strict=True))


def check_storage(config: SweepConfig) -> Iterator[Problem]:
    """Looks for write permission: of a folder without writing, of an object store by one small object."""
    if scheme_of(config.storage_path) is not None:
        if not any(check_url(config.storage_path)):
            yield from check_reachable(config.storage_path)
        return
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


def _check_machine(config: SweepConfig) -> Iterator[Problem]:
    """Whether one trial fits this machine; a cluster is asked when it is connected to."""
    if os.environ.get("RAY_ADDRESS"):
        return
    try:
        check_workers(config.model, plan_resources(config.resources, local_nodes(), num_trials=1))
    except SetupError as error:
        yield from error.problems
    if config.model.load_in_4bit and importlib.util.find_spec(PACKAGE) is None:
        yield not_installed()


def _check_columns(config: SweepConfig, data: LoadedData) -> Iterator[Problem]:
    """Whether rewards in columns stand where the loss of each weight vector needs them."""
    columns = column_rewards(data)
    for vector in weight_vectors(config):
        if training_sources(config, vector) and not training_sources(config, vector, columns):
            yield Problem(
                code="MS-179",
                what="a weighted objective has no numbers beside the responses that the loss would train on",
                where="objectives",
                got="; ".join(f"rows of {name}: {', '.join(sorted(has)) or 'none'}" for name, has in columns.items()),
                wanted="the columns of every weighted objective in the rows of at least one that can be primary",
                remedy=f"add the columns to the data, or leave out {_named(config, vector)}",
            )


def _check_model(config: SweepConfig) -> Iterator[Problem]:
    """Loads tokenizers and model configs, not the weights."""
    # transformers takes seconds to import, and only a config that got so far needs it.
    from modpo.model_configs import check_loadable

    name = config.model.name_or_path
    if name != STAND_IN_MODEL and not name.startswith(DEMO_PREFIX) and _is_there(name):
        yield from _problems_of(partial(check_loadable, config.model, longest=config.longest_sequence))
    for objective in config.objectives:
        reward = objective.reward
        if isinstance(reward, ModelReward) and _is_there(reward.name_or_path):
            yield from _problems_of(partial(_check_reward_model, reward))
        if isinstance(reward, TrainedReward) and reward.name_or_path and _is_there(reward.name_or_path):
            yield from _problems_of(partial(_check_start_of_reward_model, reward, reward.name_or_path))


def _check_reward_model(reward: ModelReward) -> None:
    # It brings PEFT along, which takes as long again as all that a sweep without reward models needs.
    from modpo.rewards.classifier import ClassifierSource, check_classifier

    check_classifier(ClassifierSource(reward.name_or_path, reward.revision, reward.dtype), reward)


def _check_start_of_reward_model(reward: TrainedReward, name_or_path: str) -> None:
    from modpo.rewards.classifier import ClassifierSource, check_classifier

    check_classifier(ClassifierSource(name_or_path), reward, new_head=True)


def _is_there(name_or_path: str) -> bool:
    return is_hub_id(name_or_path) or (Path(name_or_path) / "config.json").is_file()


def _problems_of(check: Callable[[], object]) -> tuple[Problem, ...]:
    try:
        check()
    except ModpoError as error:
        return error.problems
    return ()
