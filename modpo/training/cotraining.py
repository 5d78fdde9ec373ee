"""Trains several Pareto points together: their adapters on one frozen model, all of them in every batch.

Points that differ in weights and beta alone see the same pairs in the same order, and only the loss tells them apart.
Each keeps its own checkpoints, metrics and final weights, in the places and forms of a point that is trained alone: it
may go on alone at any time, and alone ones together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modpo.config.spec import TrialSpec, Work
from modpo.core.batch import PairLogps, PreferenceBatch
from modpo.core.flops import MatmulShape
from modpo.core.losses import LossSettings
from modpo.core.workload import StepTotals, Workload
from modpo.kernels.stacked_lora import NotStackableError
from modpo.ledger import final_dir, point_dir
from modpo.models import DTYPES
from modpo.scoring import pair_logps
from modpo.stacking import StackedResponseModel
from modpo.training.batches import AnnotatedPairs
from modpo.training.checkpoint import Checkpoints, TrainingState
from modpo.training.engine import StackedEngine
from modpo.training.loop import Hook, Metrics, Progress, Training, train
from modpo.training.point import annotated_pairs, build_policy, check_reference, commit_final, loss_settings
from modpo.training.process_group import from_rank_zero
from modpo.training.step import MicroBatchResult, preference_result
from modpo.utilisation import known_peak, known_shape

Tensors = dict[str, Tensor]


class NotTogetherError(RuntimeError):
    """Points that cannot be trained together; nothing has been done to any of them. The message says why."""


def train_together(works: Sequence[Work], *, hooks: Sequence[Sequence[Hook]]) -> int:
    """Trains the points of these works to their end, from the checkpoints that they have; returns the number of steps.

    All ranks call it. Where it ends in an error, every point still has its own checkpoints and can go on alone.

    Args:
        works: of one seed and one choice of training pairs; not early stopping, and LoRA without ZeRO.
        hooks: of each point, run with its own metrics. What they answer is not asked for: none ends its point early.

    Raises:
        NotTogetherError: the model cannot have several adapters at once, or the points stand at different steps.
        TrialError: one of them diverged.
        InternalError: the start model does not reproduce the cached reference log-probabilities.
    """
    config, trials = works[0].config, [trial_of(work) for work in works]
    run_dir = Path(works[0].run_dir)
    data, settings = _read_all(works), [loss_settings(work) for work in works]
    policy = build_policy(config, works[0].inputs.start_model, seed=trials[0].seed)
    shape = known_shape(policy, longest=config.longest_sequence)
    model = _stacked_model(policy, longest=config.longest_sequence, num_policies=len(works))
    torch.manual_seed(trials[0].seed)
    engine = StackedEngine(model, config.training, num_workers=config.resources.num_workers, trained=model.policy)
    stores = [
        Checkpoints(point_dir(run_dir, trial.trial_id) / "checkpoints", trial.trial_id, engine.rank) for trial in trials
    ]

    def micro_batch(called: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
        batch = data[0].batch(rows, engine.device)
        others = [replace(batch, margin_rewards=each.rewards(rows, engine.device)) for each in data[1:]]
        return stacked_micro_batch(called, [batch, *others], settings, shape)

    try:
        checkpoints = stacked_checkpoints(stores)
        check_reference(engine, data[0], config, draw=trials[0].trial_id)
        steps = train(
            engine,
            Training(
                settings=config.training,
                micro_batch=micro_batch,
                num_rows=len(data[0]),
                costs=data[0].num_tokens,
                seed=trials[0].seed,
                checkpoints=checkpoints,
                hooks=[_own(hook, number, engine) for number, own in enumerate(hooks) for hook in own],
                peak_flops_per_second=known_peak(shape, engine.device, DTYPES[config.model.dtype]),
            ),
        )
        parameters = engine.parameters()
        model.unstack()
        for number, trial in enumerate(trials):
            description = {"kind": "point", "trial_id": trial.trial_id, "step": steps}
            commit_final(engine, slice_of(parameters, number), final_dir(run_dir, trial), description)
    finally:
        engine.close()
    return steps


def stacked_micro_batch(
    model: torch.nn.Module,
    batches: Sequence[PreferenceBatch],
    settings: Sequence[LossSettings],
    shape: MatmulShape | None = None,
) -> MicroBatchResult:
    """One forward pass of all policies; the loss is their sum, so that each gets the gradient of its own.

    Args:
        batches: of each policy: the same pairs, with its margin rewards.
        shape: of one policy, by which operations are counted.
    """
    logps = pair_logps(model, batches[0].trees)
    results = [
        preference_result(PairLogps(chosen, rejected), batch, own, shape)
        for chosen, rejected, batch, own in zip(logps.chosen, logps.rejected, batches, settings, strict=True)
    ]
    loss = torch.stack([result.loss for result in results]).sum()
    metrics = {f"{number}/{name}": value for number, each in enumerate(results) for name, value in each.metrics.items()}
    workload = sum((result.workload for result in results), Workload())
    row_losses = torch.stack([result.row_losses for result in results if result.row_losses is not None]).sum(0)
    return MicroBatchResult(loss, {"loss": loss.detach(), **metrics}, workload, row_losses=row_losses)


@dataclass(frozen=True)
class StackedCheckpoints:
    """The checkpoints of policies that are trained together: each has its own, as if it were trained alone."""

    members: tuple[Checkpoints, ...]

    def save(self, state: TrainingState) -> Path:
        folders = [
            member.save(
                TrainingState(
                    state.step,
                    slice_of(state.parameters, number),
                    slice_of(state.moments, number),
                    state.stopped,
                    state.totals.part(len(self.members)),
                )
            )
            for number, member in enumerate(self.members)
        ]
        return folders[0]

    def newest_valid(self) -> Path | None:
        """That of the first; the others have one of the same name."""
        return self.members[0].newest_valid()

    def load(self, folder: Path) -> TrainingState:
        states = [member.load(member.root / folder.name) for member in self.members]
        return TrainingState(
            step=states[0].step,
            stopped=states[0].stopped,
            parameters=_stacked([state.parameters for state in states]),
            moments=_stacked([state.moments for state in states]),
            totals=sum((state.totals for state in states), StepTotals()),
        )


def stacked_checkpoints(stores: Sequence[Checkpoints]) -> StackedCheckpoints:
    """The stores as one. All ranks call it.

    Raises:
        NotTogetherError: their newest checkpoints are not of the same step.
    """
    folders = [store.newest_valid() for store in stores] if stores[0].rank == 0 else []
    newest = from_rank_zero([folder.name if folder else "none" for folder in folders])
    if len(set(newest)) > 1:
        raise NotTogetherError(f"their newest checkpoints are {', '.join(newest)}")
    return StackedCheckpoints(tuple(stores))


def trial_of(work: Work) -> TrialSpec:
    assert work.trial is not None, "a point needs a trial"
    return work.trial


def slice_of(stacked: Mapping[str, Tensor], number: int) -> Tensors:
    """One policy's tensors; none on the ranks that have none."""
    return {name: tensor[number] for name, tensor in stacked.items()}


def _stacked(policies: Sequence[Mapping[str, Tensor]]) -> Tensors:
    return {name: torch.stack([policy[name] for policy in policies]) for name in policies[0]}


def _own(hook: Hook, number: int, engine: StackedEngine) -> Hook:
    """A point's hook, which sees the metrics of that point alone, and its part of what all of them took."""

    def run(progress: Progress) -> bool:
        norms = engine.grad_norms()
        own = own_metrics(progress.metrics, number) | {"optim/grad_norm": norms[number]}
        hook.run(replace(progress, metrics=own, totals=progress.totals.part(len(norms))))
        return False

    return Hook(hook.every, run)


def own_metrics(metrics: Metrics, number: int) -> Metrics:
    """Those of one policy under their own names, with what all share: learning rate, and how fast a step of all is."""
    prefix = f"{number}/"
    own = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return own | {name: value for name, value in metrics.items() if name.startswith(("optim/", "perf/"))}


def _read_all(works: Sequence[Work]) -> list[AnnotatedPairs]:
    """The pairs of each point, with its own margin rewards.

    Raises:
        NotTogetherError: they are not the same pairs.
    """
    first = annotated_pairs(works[0])
    data = [first]
    for work in works[1:]:
        other = annotated_pairs(work)
        if work.inputs.reference != works[0].inputs.reference or not np.array_equal(other.rows, first.rows):
            raise NotTogetherError("they train on different pairs")
        data.append(other)
    return data


def _stacked_model(policy: torch.nn.Module, *, longest: int, num_policies: int) -> StackedResponseModel:
    """As many policies at the reference weights; what is trained of it is its `policy`."""
    try:
        return StackedResponseModel(policy, longest=longest, num_policies=num_policies)
    except NotStackableError as error:
        raise NotTogetherError(str(error)) from error
