"""What crosses Ray: one frozen JSON description of a Pareto point, and of a piece of work for a worker group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from modpo.config.frozen import Frozen
from modpo.config.tree import LossType, SweepConfig

WorkKind = Literal["sft", "reward_model", "label", "reference", "rewards", "vertex", "start", "point"]


class TrialSpec(Frozen):
    """One Pareto point to train.

    Attributes:
        trial_id: stable name from weights, beta, seed and everything the result depends on.
        weights: in the order of the objectives.
        primary: index of the objective whose pairs label the loss; None for a regression onto all rewards, which has
            no labels and trains on the pairs of every objective.
        beta: in declared reward units per nat.
        loss_type: `sigmoid` for a vertex, whatever the sweep's own loss is: an implicit reward is that of plain DPO.
        sources: indices of the objectives whose pairs it trains on: the primary one, where there is one.
        uses_rewards: False for plain DPO in declared units, which is trained before any reward is known.
    """

    trial_id: str
    weights: tuple[float, ...]
    primary: int | None
    beta: float
    seed: int
    loss_type: LossType = "sigmoid"
    sources: tuple[int, ...]
    uses_rewards: bool

    def primary_name(self, objective_names: Sequence[str]) -> str | None:
        """The objective whose pairs label the loss, where labels do."""
        return None if self.primary is None else objective_names[self.primary]


class StageInputs(Frozen):
    """Folders of the artefacts that work starts from; empty where the stage has not run yet.

    Attributes:
        pairs: what the label stage made of `prepared`; empty without one.
        vertices: trained DPO vertex of each objective whose implicit reward comes from it.
        reward_models: classifier of each objective whose reward the run trains.
    """

    prepared: str
    start_model: str
    reference: str = ""
    rewards: str = ""
    pairs: str = ""
    reward_models: dict[str, str] = Field(default_factory=dict)
    vertices: dict[str, str] = Field(default_factory=dict)

    @property
    def training_pairs(self) -> str:
        """Folder whose `pairs.parquet` annotations read, and which trials get with them."""
        return self.pairs or self.prepared


class Work(Frozen):
    """One piece of work for a worker group.

    Attributes:
        work_id: unique in the run; the same id is the same work, wherever and however often it starts.
        kind: `sft`, `reward_model` and `vertex` train; `point` trains where that is not done yet, then measures;
            `label`, `reference` and `rewards` work on one shard; `start` measures the start model.
        epoch: of the lease that the driver has on the run; 0 without one.
        output: folder (or point directory) that the work fills.
        measurement: digest of everything that a point is measured with.
        shard: (index, count) of an annotation or labelling.
        objective: whose reward model is trained.
    """

    work_id: str
    kind: WorkKind
    run_dir: str
    epoch: int = 0
    config: SweepConfig
    inputs: StageInputs
    output: str
    trial: TrialSpec | None = None
    measurement: str = ""
    shard: tuple[int, int] = (0, 1)
    objective: str = ""
