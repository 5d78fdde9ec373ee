"""The stages of a run: each makes one artefact (or the points of the ledger) from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modpo.artifacts import is_complete, read_json, remove, stage_path, verified
from modpo.config.spec import StageInputs, TrialSpec, Work, WorkKind
from modpo.config.together import alone_because
from modpo.config.tree import SweepConfig
from modpo.ledger import final_dir, is_finished, is_trained
from modpo.orchestration.digests import ANNOTATION_VERSION, LABEL_VERSION
from modpo.orchestration.fetching import fetch_inputs, fetched_model
from modpo.orchestration.grouping import LayerSize, StepSize, grouped, largest_group
from modpo.orchestration.plan import SweepPlan
from modpo.orchestration.session import Session


@dataclass(frozen=True)
class RunState:
    """What every stage works on: the resolved config, the run's folder, the plan, and the hold on the cluster.

    Attributes:
        epoch: of the lease on the run; 0 where nobody else can have it.
    """

    config: SweepConfig
    run_dir: Path
    plan: SweepPlan
    session: Session
    epoch: int = 0

    @property
    def inputs(self) -> StageInputs:
        """Where each artefact is, or will be when its stage has run."""
        plan, config = self.plan, self.config
        return StageInputs(
            prepared=str(stage_path(self.run_dir, "prepared", plan.prepared)),
            start_model=(
                str(stage_path(self.run_dir, "start_model", plan.start_model))
                if config.sft
                else config.model.name_or_path
            ),
            reference=str(stage_path(self.run_dir, "reference", plan.reference)),
            rewards=str(stage_path(self.run_dir, "rewards", plan.rewards)),
            pairs=str(stage_path(self.run_dir, "labelled", plan.labelled)) if plan.labelled else "",
            reward_models={
                name: str(stage_path(self.run_dir, "reward_model", digest))
                for name, digest in plan.reward_models.items()
            },
            vertices={name: str(final_dir(self.run_dir, trial)) for name, trial in plan.vertices.items()},
        )

    def work(self, kind: WorkKind, work_id: str, trial: TrialSpec | None = None) -> Work:
        return Work(
            work_id=work_id,
            kind=kind,
            run_dir=str(self.run_dir),
            epoch=self.epoch,
            config=self.config,
            inputs=self.inputs,
            output=self.inputs.start_model,
            trial=trial,
            measurement=self.plan.measurement,
        )


def sft_is_done(state: RunState) -> bool:
    return state.config.sft is None or is_complete(Path(state.inputs.start_model))


def run_sft(state: RunState) -> None:
    state.session.perform_all([state.work("sft", f"sft-{state.plan.start_model}")])
    remove(state.run_dir / "work" / f"sft-{state.plan.start_model}")


def missing_reward_models(state: RunState) -> list[str]:
    """Objectives whose reward model is not trained yet."""
    return [name for name, folder in state.inputs.reward_models.items() if not is_complete(Path(folder))]


def run_reward_models(state: RunState) -> None:
    """Trains all that are missing, at once where there are slots."""
    works = {
        name: state.work("reward_model", f"reward_model-{state.plan.reward_models[name]}").model_copy(
            update={"objective": name, "output": state.inputs.reward_models[name]}
        )
        for name in missing_reward_models(state)
    }
    state.session.perform_all(list(works.values()))
    for work in works.values():
        remove(state.run_dir / "work" / work.work_id)


def labels_are_done(state: RunState) -> bool:
    return is_complete(Path(state.inputs.training_pairs))


def run_labels(state: RunState) -> None:
    """Samples responses to all prompts, in as many shards as there are slots, and draws the labels."""
    from modpo.label import merge_labels

    output = Path(state.inputs.pairs)
    work = _perform_shards(state, "label", output)
    merge_labels(work, output=output, description={"stage": "labelled", "version": LABEL_VERSION})
    remove(Path(work.output))


def annotation_is_done(state: RunState, kind: Literal["reference", "rewards"]) -> bool:
    return is_complete(Path(getattr(state.inputs, kind)))


def run_annotation(state: RunState, kind: Literal["reference", "rewards"]) -> None:
    """Scores every completion once, in as many shards as there are slots, and joins them to one table."""
    # Imported when there is something to join: a run that is complete never loads torch.
    from modpo.annotate import merge_shards

    output = Path(getattr(state.inputs, kind))
    work = _perform_shards(state, kind, output)
    merge_shards(work, output=output, description={"stage": kind, "version": ANNOTATION_VERSION})
    remove(Path(work.output))


def _perform_shards(state: RunState, kind: Literal["label", "reference", "rewards"], output: Path) -> Work:
    """Fills a folder with one part a rank; returns the first piece of work, which names it."""
    count = state.session.num_slots
    layout = f"{output.name}-of-{count}x{state.config.resources.num_workers}"
    # Labels of another layout would leave rows out or have them twice. An annotation knows what it has.
    parts = state.run_dir / "work" / (layout if kind == "label" else output.name)
    works = [
        state.work(kind, f"{layout}-{index}").model_copy(update={"output": str(parts), "shard": (index, count)})
        for index in range(count)
    ]
    state.session.perform_all(works)
    # The parts are joined here.
    fetch_inputs(works[0])
    return works[0]


def missing_vertices(state: RunState) -> list[TrialSpec]:
    """Vertices that are not trained yet."""
    return [trial for trial in state.plan.vertices.values() if not is_trained(state.run_dir, trial)]


def missing_points(state: RunState) -> list[TrialSpec]:
    """Points of the sweep that are not trained and measured yet."""
    return [trial for trial in state.plan.points if not is_finished(state.run_dir, trial, state.plan.measurement)]


def start_path(state: RunState) -> Path:
    """Where the measurement of the start model is, or will be."""
    return stage_path(state.run_dir, "start_evaluation", state.plan.measurement)


def sweep_is_done(state: RunState) -> bool:
    return is_complete(start_path(state)) and not missing_points(state)


def run_sweep_stage(state: RunState, trials: Sequence[TrialSpec]) -> None:
    """Measures the start model, which every point is compared with, then trains and measures these points."""
    if not is_complete(start_path(state)):
        work = state.work("start", f"start-{state.plan.measurement}")
        state.session.perform_all([work.model_copy(update={"output": str(start_path(state))})])
    run_points(state, "point", trials)


def run_points(state: RunState, kind: Literal["vertex", "point"], trials: Sequence[TrialSpec]) -> None:
    """Runs every trial through Tune; those that are finished are reported at once and not run again."""
    # Tune takes seconds to import.
    from modpo.orchestration.sweep import run_sweep

    groups = [
        [state.work(kind, f"{kind}-{trial.trial_id}", trial) for trial in group] for group in _grouped(state, trials)
    ]
    run_sweep(
        groups,
        state.session.settings,
        state.config.trackers,
        name="vertices" if kind == "vertex" else "sweep",
        storage_path=str(state.run_dir / "tune"),
    )
    state.session.wait_for([work for group in groups for work in group])


def _grouped(state: RunState, trials: Sequence[TrialSpec]) -> list[list[TrialSpec]]:
    """Which trials a slot gets together: only such as are not trained yet."""
    untrained = [trial for trial in trials if not is_trained(state.run_dir, trial)]
    largest = _largest_group(state, len(untrained))
    if largest == 1:
        return [[trial] for trial in trials]
    others = [[trial] for trial in trials if trial not in untrained]
    return [*grouped(untrained, slots=state.session.num_slots, largest=largest), *others]


def _largest_group(state: RunState, num_trials: int) -> int:
    config, asked = state.config, state.config.resources.points_together
    if asked == 1 or num_trials <= state.session.num_slots or alone_because(config) is not None:
        return 1
    if asked != "auto":
        return asked
    # It takes seconds to import, and most runs never ask.
    from modpo.model_configs import layer_size

    size = layer_size(config.model, path=fetched_model(state.inputs.start_model))
    if size is None:
        return 1
    tokens = config.training.per_device_train_batch_size * _tokens_of_a_pair(state)
    on_gpu = state.session.settings.resources.gpus_per_worker > 0
    return largest_group(StepSize(tokens, LayerSize(*size)), on_gpu=on_gpu)


def _tokens_of_a_pair(state: RunState) -> float:
    """The sum of the median lengths, of the objective that has most; the longest possible where pairs are made."""
    counts = read_json(verified(Path(state.inputs.prepared)) / "counts.json")
    lengths = [counts[name]["lengths"] for name in state.config.objective_names if counts.get(name, {}).get("lengths")]
    if state.plan.labelled or not lengths:
        return 2.0 * state.config.longest_sequence
    return float(max(sum(each[part]["50"] for part in ("prompt", "chosen", "rejected")) for each in lengths))
