"""Trains one Pareto point: start model, step-0 check, loop, final weights. Runs with or without Ray."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from modpo.artifacts import is_complete, writing
from modpo.config.spec import TrialSpec, Work
from modpo.config.tree import SweepConfig
from modpo.core.losses import LossSettings
from modpo.errors import InternalError, Problem, TrialError
from modpo.ledger import final_dir, point_dir
from modpo.models import DTYPES, attach_adapter, checkpoint_activations, load_model, save_trained
from modpo.scoring import ResponseModel, pair_logps
from modpo.training.batches import AnnotatedPairs, pair_ids, read_annotated, read_units
from modpo.training.checkpoint import Checkpoints
from modpo.training.engine import DeepSpeedEngine
from modpo.training.guard import SHOWN_ROWS
from modpo.training.loop import Hook, Training, train
from modpo.training.process_group import barrier
from modpo.training.step import MicroBatchResult, TrainEngine, preference_micro_batch
from modpo.utilisation import known_peak, known_shape

# Largest difference per response token between a log-probability in one batch layout and in another, in nats,
# measured over the tiny models of the tests with a margin of ten: docs/concepts.md has the measurements.
LOGPS_TOLERANCE_PER_TOKEN = {"float32": 2e-5, "bfloat16": 5e-2}


def loss_settings(work: Work) -> LossSettings:
    """What the point of `work` asks of the loss, in the units that the annotation fixed."""
    config, trial = work.config, work.trial
    assert trial is not None
    fixed = read_units(Path(work.inputs.rewards)) if trial.uses_rewards else {}
    units = tuple(fixed.get(objective.name, objective.unit) for objective in config.objectives)
    # Labels that the label stage drew, and those that the soft loss computes, are in the declared unit; the labels
    # of users are in raw units.
    own_labels = trial.loss_type == "soft" or (
        trial.primary is not None and config.objective_names[trial.primary] in config.labelled()
    )
    return LossSettings(
        weights=trial.weights,
        units=units,
        primary=trial.primary,
        beta=trial.beta,
        loss_type=trial.loss_type,
        label_smoothing=config.training.label_smoothing,
        label_unit=units[trial.primary] if own_labels and trial.primary is not None else 1.0,
    )


def train_point(work: Work, *, hooks: Sequence[Hook] = ()) -> int:
    """Trains the point of `work` to its end, from its newest valid checkpoint; returns the number of steps.

    All ranks call it. The trained adapter (or model) is committed to `final/` in the point's directory.

    Raises:
        InternalError: the start model does not reproduce the cached reference log-probabilities.
        TrialError: training diverged.
    """
    assert work.trial is not None, "a point needs a trial"
    config, trial = work.config, work.trial
    directory = point_dir(Path(work.run_dir), trial.trial_id)
    data = annotated_pairs(work)
    settings = loss_settings(work)
    policy = build_policy(config, work.inputs.start_model, seed=trial.seed)
    shape = known_shape(policy, longest=config.longest_sequence)
    engine = start_engine(config, policy, seed=trial.seed)

    def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
        return preference_micro_batch(model, data.batch(rows, engine.device), settings, shape)

    try:
        check_reference(engine, data, config, draw=trial.trial_id)
        steps = train(
            engine,
            Training(
                settings=config.training,
                micro_batch=micro_batch,
                num_rows=len(data),
                costs=data.num_tokens,
                seed=trial.seed,
                checkpoints=Checkpoints(directory / "checkpoints", trial.trial_id, engine.rank),
                hooks=hooks,
                names=lambda rows: pair_ids(Path(work.inputs.reference), data.rows[list(rows)]),
                about=described(trial, config.objective_names),
                peak_flops_per_second=known_peak(shape, engine.device, DTYPES[config.model.dtype]),
            ),
        )
        save_final(
            engine, final_dir(Path(work.run_dir), trial), {"kind": "point", "trial_id": trial.trial_id, "step": steps}
        )
    finally:
        engine.close()
    return steps


def described(trial: TrialSpec, objectives: Sequence[str]) -> str:
    """What a point trades off, and how steep that makes its loss."""
    weights = ", ".join(f"{name} {weight:g}" for name, weight in zip(objectives, trial.weights, strict=True))
    if trial.primary is None:
        return f"weights {weights}; beta {trial.beta:g}"
    of_primary = trial.weights[trial.primary]
    return f"weights {weights}; w_k {of_primary:g}, beta / w_k {trial.beta / of_primary:.3g}"


def build_policy(config: SweepConfig, start_model: str, *, seed: int) -> torch.nn.Module:
    """The policy that every point of this seed starts with, at the reference weights."""
    model = load_model(config.model, path=start_model)
    policy: torch.nn.Module = model
    if config.model.lora is not None:
        policy = attach_adapter(model, config.model.lora, seed=seed)
    if config.training.gradient_checkpointing:
        checkpoint_activations(model)
    return policy


def start_engine(config: SweepConfig, policy: torch.nn.Module, *, seed: int) -> TrainEngine:
    """Puts a policy under DeepSpeed, which may spread its weights over the ranks."""
    torch.manual_seed(seed)
    model_of_rows = ResponseModel(policy, longest=config.longest_sequence)
    workers = config.resources.num_workers
    return DeepSpeedEngine(model_of_rows, config.training, num_workers=workers, trained=policy)


@torch.no_grad()
def check_reference(engine: TrainEngine, data: AnnotatedPairs, config: SweepConfig, *, draw: str = "") -> float:
    """The step-0 check: an untrained policy must give the cached reference log-probabilities.

    Catches a wrong reference model, template, padding or adapter before any step is taken.

    Args:
        draw: seed of the draw of a micro-batch of pairs to look at: the trial's id, so that each trial looks at others.

    Returns:
        The largest difference per response token, in nats.

    Raises:
        InternalError: it is beyond the tolerance of the dtype.
    """
    size = min(len(data), config.training.per_device_train_batch_size)
    rows = sorted(random.Random(draw).sample(range(len(data)), size))
    batch = data.batch(rows, engine.device)
    engine.model.eval()
    policy = pair_logps(engine.model, batch.trees)
    lengths = torch.from_numpy(data.response_lengths(rows))
    gap = torch.stack([policy.chosen - batch.reference.chosen, policy.rejected - batch.reference.rejected], -1)
    worst = float((gap.abs().cpu() / lengths).max())
    tolerance = LOGPS_TOLERANCE_PER_TOKEN[config.model.dtype]
    if not worst <= tolerance:
        raise InternalError(
            Problem(
                code="MS-602",
                what="the start model does not reproduce its cached reference log-probabilities",
                where="step 0",
                got=f"a difference of {worst:.3g} nats per token",
                wanted=f"at most {tolerance:g} in {config.model.dtype}",
                remedy="delete the run's artifacts/reference-* folder if the model's files were changed by hand",
            )
        )
    return worst


def save_final(engine: TrainEngine, folder: Path, description: dict[str, object]) -> None:
    """Commits the trained weights in Hugging Face's own layout; every rank calls it, rank 0 writes."""
    commit_final(engine, engine.parameters(), folder, description)


def commit_final(
    engine: TrainEngine, parameters: dict[str, torch.Tensor], folder: Path, description: dict[str, object]
) -> None:
    """The same for parameters that are there on rank 0."""
    if engine.rank == 0 and not is_complete(folder):
        with writing(folder, description) as aside:
            save_trained(engine.module, aside, parameters)
    barrier()


def annotated_pairs(work: Work) -> AnnotatedPairs:
    """The pairs that the point of `work` trains on.

    Raises:
        TrialError: a reward or a log-probability of one of them is not finite.
    """
    assert work.trial is not None
    config, inputs, trial = work.config, work.inputs, work.trial
    data = read_annotated(
        Path(inputs.reference),
        Path(inputs.rewards) if trial.uses_rewards else None,
        sources=[config.objective_names[source] for source in trial.sources],
        weights=dict(zip(config.objective_names, trial.weights, strict=True)),
    )
    bad = data.not_finite()
    if len(bad):
        names = pair_ids(Path(inputs.reference), data.rows[bad[:SHOWN_ROWS]])
        raise TrialError(
            Problem(
                code="MS-501",
                what="rewards or reference log-probabilities are not finite before the first step",
                where=f"{len(bad)} of {len(data)} pairs: {', '.join(names)}",
                got=described(trial, config.objective_names),
                wanted="finite numbers",
                remedy="mend the reward, delete the run's artifacts/rewards-* folder, and run again",
            )
        )
    return data
