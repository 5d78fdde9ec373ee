"""Checks of a sweep file that need more than one field; what it names on disk is looked at in `disk`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modpo.config.disk import check_disk
from modpo.config.objectives import ObjectiveConfig
from modpo.config.offload import check_offload
from modpo.config.points import training_sources, weight_vectors
from modpo.config.quantised import check_quantised
from modpo.config.rewards import ClassifierSettings, ColumnsReward, ImplicitReward, TrainedReward
from modpo.config.together import check_together
from modpo.config.tree import SweepConfig
from modpo.config.workers import check_workers
from modpo.core.weights import WeightVector, check_weights
from modpo.errors import Problem, closest, shown
from modpo.storage import check_url, scheme_of

FORMS = ("columns", "scored", "ranked", "compared", "named")

RESERVED_NAMES = frozenset(
    {"distinct_n", "j_w", "key", "kl", "kl_k1", "length", "prompt", "prompt_number", "reference", "response", "status"}
    | {"beta", "device_seconds", "point", "primary", "seed", "step", "truncated"}
)


def check_config(config: SweepConfig) -> list[Problem]:
    """Every problem of a well-typed config that can be seen without reading data or loading a model."""
    return [*check_tree(config), *check_disk(config)]


def check_tree(config: SweepConfig) -> list[Problem]:
    """Those that can be seen without looking at the disk."""
    return [
        *_check_objectives(config),
        *_check_weights(config),
        *_check_label(config),
        *_check_data(config),
        *_check_training(config),
        *(check_url(config.storage_path) if scheme_of(config.storage_path) is not None else ()),
        *check_offload(config),
        *check_quantised(config),
        *check_together(config),
        *check_workers(config),
    ]


def _check_objectives(config: SweepConfig) -> Iterator[Problem]:
    names = config.objective_names
    if len(names) < 2:
        yield Problem(
            code="MS-121",
            what="a sweep needs at least two objectives",
            where="objectives",
            got=f"{len(names)}: {', '.join(names)}",
            wanted="K >= 2",
            remedy="add an objective, or train with TRL's DPOTrainer where one is all you want",
        )
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(
            code="MS-122", what=f"objective {name!r} is declared twice", where="objectives", remedy="rename one"
        )
    for index, objective in enumerate(config.objectives):
        where = f"objectives.{index}"
        if objective.name in RESERVED_NAMES:
            yield Problem(
                code="MS-129",
                what=f"{objective.name!r} is the name of a column of every evaluation",
                where=f"{where}.name",
                wanted=f"anything but {', '.join(sorted(RESERVED_NAMES))}",
                remedy="rename the objective, for instance short for length",
            )
        if not config.has_reward(objective):
            yield Problem(
                code="MS-123",
                what=f"objective {objective.name!r} has neither pairs nor a reward",
                where=where,
                wanted="pairs, a reward, or both",
                remedy="add `pairs: {path: ...}` or `reward: {type: function, function: module:name}`",
            )
        yield from _check_implicit(objective, where)
        yield from _check_form(objective, where)
        yield from _check_reward(objective, where)
    if not any(config.has_pairs(objective) for objective in config.objectives):
        yield Problem(
            code="MS-124",
            what="no objective has preference pairs",
            where="objectives",
            wanted="pairs for at least one objective",
            remedy="add `pairs` to the objective that has preference data, or a `label` section that makes some",
        )
    if config.sweep.primary != "auto" and config.sweep.primary not in names:
        yield Problem(
            code="MS-125",
            what="the primary objective is not declared",
            where="sweep.primary",
            got=shown(config.sweep.primary),
            wanted=f"auto, {', '.join(names)}",
            remedy="name a declared objective" + closest(config.sweep.primary, names),
        )


def _check_implicit(objective: ObjectiveConfig, where: str) -> Iterator[Problem]:
    reward = objective.reward
    if not isinstance(reward, ImplicitReward):
        return
    if reward.adapter is None and objective.pairs is None:
        yield Problem(
            code="MS-126",
            what=f"the implicit reward of {objective.name!r} has nothing to come from",
            where=f"{where}.reward",
            wanted="pairs (for a DPO vertex) or an adapter",
            remedy="add `pairs`, or `adapter` with its `adapter_beta`",
        )
    if (reward.adapter is None) != (reward.adapter_beta is None):
        yield Problem(
            code="MS-127",
            what="adapter and adapter_beta belong together",
            where=f"{where}.reward",
            wanted="both, or neither",
            remedy="an implicit reward is adapter_beta * log(pi / pi_ref) with the beta of the adapter's own DPO run",
        )


def _check_form(objective: ObjectiveConfig, where: str) -> Iterator[Problem]:
    """One form of data, one unit."""
    pairs = objective.pairs
    forms = [name for name in FORMS if pairs is not None and getattr(pairs, name) is not None]
    if len(forms) > 1:
        yield Problem(
            code="MS-181",
            what="the pairs are given in more than one form",
            where=f"{where}.pairs",
            got=", ".join(forms),
            wanted=f"one of {', '.join(FORMS)}",
            remedy="keep the one that your rows have",
        )
    if pairs is not None and pairs.ranked is not None and (pairs.ranked.ranks is None) == (pairs.ranked.scores is None):
        yield Problem(
            code="MS-172",
            what="ranked responses need ranks or scores",
            where=f"{where}.pairs.ranked",
            wanted="exactly one of `ranks` and `scores`",
            remedy="name the column that orders the responses",
        )
    if objective.normalize != "none" and objective.unit != 1.0:
        yield Problem(
            code="MS-173",
            what="the unit is given and to be fitted",
            where=f"{where}.normalize",
            got=f"unit {objective.unit:g}, normalize {objective.normalize}",
            wanted="one of the two",
            remedy="remove `unit`, or set `normalize: none`",
        )


def _check_reward(objective: ObjectiveConfig, where: str) -> Iterator[Problem]:
    """What a reward in columns or a reward model of the run's own needs beside itself."""
    reward, pairs = objective.reward, objective.pairs
    if isinstance(reward, ClassifierSettings) and reward.template is not None and "{response}" not in reward.template:
        yield Problem(
            code="MS-156",
            what="the reward model's template has no place for the response",
            where=f"{where}.reward.template",
            got=shown(reward.template),
            wanted="a text with {response} in it, and {prompt} where the reward model reads it",
            remedy="add {response} where the response belongs",
        )
    if isinstance(reward, ColumnsReward):
        if (reward.chosen is None) != (reward.rejected is None) or (reward.score is None) == (reward.chosen is None):
            yield Problem(
                code="MS-174",
                what="rewards in columns need their columns",
                where=f"{where}.reward",
                wanted="`score` for scored or ranked responses, or `chosen` and `rejected` for pairs",
                remedy="name the columns that hold this objective's numbers",
            )
        if pairs is None:
            yield Problem(
                code="MS-175",
                what=f"nothing could score new responses under {objective.name!r}",
                where=f"{where}.reward",
                got="numbers beside the responses of the data, and no pairs",
                wanted="pairs, whose DPO model then scores what trained models answer",
                remedy="add `pairs` (scored responses become pairs), or take `type: trained` with `loss: regression`",
            )
    if isinstance(reward, TrainedReward) and (reward.data if reward.loss == "regression" else pairs) is None:
        yield Problem(
            code="MS-176",
            what=f"the reward model of {objective.name!r} has nothing to learn from",
            where=f"{where}.reward",
            wanted="`pairs` of the objective for bradley-terry, `data` with numbers for regression",
            remedy="add `data: {path: ..., score: ...}`" if reward.loss == "regression" else "add `pairs`",
        )


def _check_label(config: SweepConfig) -> Iterator[Problem]:
    label = config.label
    if label is None:
        return
    names = config.objective_names
    for name in sorted(set(label.objectives or ()) - set(names)):
        yield Problem(
            code="MS-177",
            what=f"the label stage names an unknown objective{closest(name, names)}",
            where="label.objectives",
            got=shown(name),
            wanted=f"some of {', '.join(names)}",
            remedy="correct the name",
        )
    refused = [n for n in label.objectives or () if n in names and n not in config.labelled()]
    if refused or not config.labelled():
        yield Problem(
            code="MS-178",
            what="an objective cannot get pairs from the label stage",
            where="label.objectives",
            got=", ".join(refused) or "no objective that could",
            wanted="objectives without pairs of their own and with a reward that scores new responses",
            remedy="give the objective a `reward` (function, model, adapter), or leave it out of `label`",
        )


def _check_weights(config: SweepConfig) -> Iterator[Problem]:
    names, weights = config.objective_names, config.sweep.weights
    for key, values in (("weights.list", weights.list), ("betas", config.sweep.betas), ("seeds", config.sweep.seeds)):
        if values is not None and not values:
            yield Problem(
                code="MS-136",
                what="a list of the sweep is empty, so no point would be trained",
                where=f"sweep.{key}",
                wanted="at least one entry",
                remedy="add an entry, or leave the key out",
            )
    if len(names) < 2 or (config.sweep.primary != "auto" and config.sweep.primary not in names):
        return
    if (weights.lattice is None) == (weights.list is None):
        yield Problem(
            code="MS-131",
            what="sweep.weights takes exactly one of `lattice` and `list`",
            where="sweep.weights",
            remedy="keep one of the two",
        )
        return
    for index, entry in enumerate(weights.list or ()):
        for name in sorted(set(entry) - set(names)):
            yield Problem(
                code="MS-132",
                what=f"a weight names an unknown objective{closest(name, names)}",
                where=f"sweep.weights.list.{index}.{name}",
                wanted=f"one of: {', '.join(names)}",
                remedy="correct the name",
            )
    num_trials = _num_trials(config)
    if num_trials > config.sweep.max_trials:
        yield Problem(
            code="MS-135",
            what="the sweep has more trials than sweep.max_trials allows",
            where="sweep.max_trials",
            got=f"{num_trials} trials",
            wanted=f"at most {config.sweep.max_trials}",
            remedy="take fewer weights, betas or seeds, or raise sweep.max_trials",
        )
        return
    for index, vector in enumerate(weight_vectors(config)):
        where = f"sweep.weights.list.{index}" if weights.list is not None else "sweep.weights.lattice"
        yield from _check_vector(config, vector, where)


def _num_trials(config: SweepConfig) -> int:
    """Counted, not listed: a slip of the keyboard can ask for more than memory holds."""
    weights, num_objectives = config.sweep.weights, len(config.objectives)
    lattice = math.comb((weights.lattice or 1) + num_objectives - 1, num_objectives - 1)
    num_vectors = lattice if weights.list is None else len(weights.list)
    return num_vectors * len(config.sweep.betas or (1,)) * len(config.sweep.seeds)


def _check_vector(config: SweepConfig, vector: WeightVector, where: str) -> Iterator[Problem]:
    try:
        check_weights(vector)
    except ValueError as error:
        yield Problem(
            code="MS-133",
            what="a weight vector is not on the simplex",
            where=where,
            got=", ".join(f"{n}: {w:g}" for n, w in zip(config.objective_names, vector, strict=True)),
            wanted="weights >= 0 that sum to 1 within 1e-6",
            remedy=str(error),
        )
        return
    if not training_sources(config, vector):
        yield Problem(
            code="MS-134",
            what="no objective can label the loss at a weight vector",
            where=where,
            got=", ".join(f"{n}: {w:g}" for n, w in zip(config.objective_names, vector, strict=True)),
            wanted="positive weight on an objective that has pairs, and a reward for every other weighted one"
            + ("" if config.sweep.primary == "auto" else f" (sweep.primary is {config.sweep.primary})"),
            remedy="move weight to an objective with pairs, give pairs to a weighted one, or leave this vector out",
        )


def _check_data(config: SweepConfig) -> Iterator[Problem]:
    if config.data.template is not None and "{prompt}" not in config.data.template:
        yield Problem(
            code="MS-154",
            what="the template has no place for the prompt",
            where="data.template",
            got=shown(config.data.template),
            wanted="a text with {prompt} in it",
            remedy="add {prompt} where the prompt belongs",
        )


def _check_training(config: SweepConfig) -> Iterator[Problem]:
    if config.training.label_smoothing > 0 and config.training.loss_type != "sigmoid":
        yield Problem(
            code="MS-155",
            what="only the sigmoid loss has label smoothing",
            where="training.label_smoothing",
            got=f"loss_type {config.training.loss_type}",
            remedy="set label_smoothing to 0, or loss_type to sigmoid",
        )
    early, stage = config.training.early_stopping, config.training.deepspeed.stage
    if early is not None and stage == 3:
        yield Problem(
            code="MS-151",
            what="early stopping cannot sample from a model that ZeRO 3 has partitioned",
            where="training.early_stopping",
            wanted="deepspeed.stage 0, 1 or 2",
            remedy="lower training.deepspeed.stage or remove early_stopping",
        )
