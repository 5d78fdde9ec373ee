"""What crosses Ray: one frozen JSON description of a Pareto point, and of a piece of work for a worker group."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modpo.config.frozen import Frozen
from modpo.config.tree import SweepConfig


class TrialSpec(Frozen):
    """One Pareto point to train.

    Attributes:
        trial_id: stable name from weights, beta, seed and everything the result depends on.
        weights: in the order of the objectives.
        primary: index of the objective whose pairs label the loss; None for a regression onto all rewards, which has
            no labels and trains on the pairs of every objective.
        beta: in declared reward units per nat.
        loss_type: `sigmoid` for a vertex, whatever the sweep's own loss is: an implicit reward is that of plain DPO.
    """

    trial_id: str
    weights: tuple[float, ...]
    primary: int
    beta: float
    seed: int

    @property
    def is_vertex(self) -> bool:
        """All weight on one objective: plain DPO, which needs no margin rewards."""
        return self.weights[self.primary] == 1.0


class StageInputs(Frozen):
    """Folders of the artefacts that work starts from; empty where the stage has not run yet.

    Attributes:
        pairs: folder whose `pairs.parquet` the trials train on: `prepared`, or what the label stage made of it.
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


class Work(Frozen):
    """One piece of work for a worker group.

    Attributes:
        work_id: unique in the run; the same id is the same work, wherever and however often it starts.
        kind: `sft` and `vertex` train; `point` trains where that is not done yet, then measures; `reference` and
            `rewards` annotate one shard.
        output: folder (or point directory) that the work fills.
        measurement: digest of everything that a point is measured with.
        shard: (index, count) of an annotation.
    """

    work_id: str
    kind: Literal["sft", "reference", "rewards", "vertex", "point"]
    run_dir: str
    config: SweepConfig
    inputs: StageInputs
    output: str
    trial: TrialSpec | None = None
    measurement: str = ""
    shard: tuple[int, int] = (0, 1)
