"""The Python API: the same as the command line, for notebooks and scripts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modpo.artifacts import verified
from modpo.config import SweepConfig, load_config
from modpo.ledger import PointRecord, read_point
from modpo.storage import working_copy

if TYPE_CHECKING:
    import pandas

    from modpo.orchestration.overview import Overview

__all__ = ["Run", "load_config", "load_run", "plan", "run"]


@dataclass(frozen=True)
class Run:
    """A run on disk, read from its ledger alone: no cluster, no model and none of Tune's files."""

    path: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Every figure of the report, as docs/summary.md describes it."""
        from modpo.analysis.front import summarise_run

        return summarise_run(self.path)

    def record(self, trial_id: str) -> PointRecord:
        """The ledger's entry of one point.

        Raises:
            KeyError: the run has no such point.
        """
        record = read_point(self.path, trial_id)
        if record is None:
            raise KeyError(trial_id)
        return record

    def points(self) -> pandas.DataFrame:
        """One row a point: weights, objective values with intervals, KL, J_w, cost, and the trained weights' folder."""
        import pandas

        return pandas.json_normalize(self.summary["points"], sep="/")

    def front(self) -> pandas.DataFrame:
        """The points that no other point dominates."""
        points = self.points()
        # A point without a measurement is neither dominated nor on the front: its mark is None.
        return points[points["dominated"] == False]  # noqa: E712

    def weights_path(self, trial_id: str) -> Path:
        """Folder of a point's trained adapter or model, fetched from an object store, every byte as it was written."""
        return verified(self.path / self.record(trial_id).final)


def plan(config: SweepConfig) -> Overview:
    """Stages, trials and resources of a sweep; starts nothing."""
    from modpo.orchestration.overview import overview

    return overview(config)


def run(config: SweepConfig) -> Run:
    """Runs a sweep, or what is missing of it, on this machine or on the cluster that RAY_ADDRESS names."""
    from modpo.orchestration.live import Watcher
    from modpo.orchestration.pipeline import run_path, run_pipeline

    run_pipeline(config, Watcher())
    return Run(run_path(config))


def load_run(path: str | Path) -> Run:
    """Opens a run that exists.

    Raises:
        InputError: the folder is no run.
    """
    from modpo.analysis.front import read_manifest

    run_dir = working_copy(str(path))
    read_manifest(run_dir)
    return Run(run_dir)
