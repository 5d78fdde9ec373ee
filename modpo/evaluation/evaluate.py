"""One evaluation artefact per point: samples, held-out values with intervals, KL, J_w, and the exact comparison.

evaluation-<digest>/  samples.parquet   one row a sampled response
                      prompts.parquet   per held-out prompt: mean of each objective and of the KL
                      summary.json      what the ledger, Tune and the report show (docs/summary.md)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import torch.distributed as dist

from modpo.artifacts import is_complete, read_json, verified, write_json, writing
from modpo.config.spec import Work
from modpo.config.tree import SweepConfig
from modpo.core.estimators import Estimate, bootstrap_mean
from modpo.data.prepared import read_held_out
from modpo.evaluation.measure import Row, accuracy_rows, exact_rows, open_measured, sampled_rows
from modpo.ledger import evaluation_dir, final_dir
from modpo.models import TrainedModel, trained_model
from modpo.rewards.quality import pair_accuracy
from modpo.training.batches import read_measured_units
from modpo.training.process_group import from_rank_zero


def evaluate_point(work: Work, *, rank: int, world_size: int, device: torch.device) -> dict[str, Any]:
    """Measures a trained point, prompts shared out over the ranks; returns the summary on every rank.

    An evaluation that is already there is returned as it is.
    """
    assert work.trial is not None
    folder = evaluation_dir(Path(work.run_dir), work.trial, work.measurement)
    policy = verified(final_dir(Path(work.run_dir), work.trial))
    return _evaluate(work, folder, policy=policy, rank=rank, world_size=world_size, device=device)


def evaluate_start(work: Work, *, rank: int, world_size: int, device: torch.device) -> dict[str, Any]:
    """Measures the start model itself, into `work.output`: what every point is compared with. Its KL is 0."""
    return _evaluate(work, Path(work.output), policy=None, rank=rank, world_size=world_size, device=device)


def _evaluate(
    work: Work, folder: Path, *, policy: Path | None, rank: int, world_size: int, device: torch.device
) -> dict[str, Any]:
    if not from_rank_zero(is_complete(folder)):
        mine = _measure(work, policy, share=slice(rank, None, world_size), device=device)
        everyone: list[Any] = [None] * world_size
        if world_size > 1:
            dist.all_gather_object(everyone, mine)
        else:
            everyone = [mine]
        if rank == 0:
            _write(folder, work, *([row for part in everyone for row in part[kind]] for kind in range(3)))
    summary: dict[str, Any] | None = read_json(verified(folder) / "summary.json") if rank == 0 else None
    shared = from_rank_zero(summary)
    assert shared is not None, "rank 0 has written or found the summary"
    return shared


def _measure(
    work: Work, policy: Path | None, *, share: slice, device: torch.device
) -> tuple[list[Row], list[Row], list[Row]]:
    """(samples, pair accuracies, exact comparisons) of this rank's share; of the start model without a policy."""
    prepared, evaluation = Path(work.inputs.prepared), work.config.evaluation
    measured = open_measured(work, objectives=work.config.objectives, device=device)
    prompts = list(enumerate(read_held_out(prepared, limit=evaluation.num_prompts)))[share]

    def trained() -> AbstractContextManager[TrainedModel]:
        if policy is None:
            return nullcontext(TrainedModel(measured.base, lambda: nullcontext(measured.base), is_start=True))
        return trained_model(measured.base, work.config.model, policy)

    return (
        sampled_rows(measured, prompts, trained=trained, samples_per_prompt=evaluation.samples_per_prompt),
        accuracy_rows(measured, trained=trained, share=share) if policy else [],
        exact_rows(measured, prompts, trained=trained) if policy and evaluation.enumerate else [],
    )


def _write(folder: Path, work: Work, samples: list[Row], accuracies: list[Row], exact: list[Row]) -> None:
    samples = sorted(samples, key=lambda row: row["prompt_number"])
    prompts = _by_prompt(samples, work.config.objective_names)
    summary = summarise(work, samples, prompts, accuracies, exact)
    with writing(folder, {"stage": "evaluation", "measurement": work.measurement}) as aside:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(samples), aside / "samples.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(prompts), aside / "prompts.parquet")
        write_json(aside / "summary.json", summary)


def summarise(
    work: Work, samples: Sequence[Row], prompts: Sequence[Row], accuracies: Sequence[Row], exact: Sequence[Row]
) -> dict[str, Any]:
    """Means with intervals over prompts. Objective values, KL and J_w are in declared reward units and nats."""
    config, trial = work.config, work.trial
    values = np.array([[row[name] for name in config.objective_names] for row in prompts])
    kl = np.array([row["kl"] for row in prompts])
    summary: dict[str, Any] = {
        "objectives": {
            name: _mean(values[:, column], config).as_dict() for column, name in enumerate(config.objective_names)
        },
        "kl": _mean(kl, config).as_dict(),
        "kl_k1": float(np.mean([row["kl_k1"] for row in samples])),
        **({"j_w": _mean(values @ np.array(trial.weights) - trial.beta * kl, config).as_dict()} if trial else {}),
        "pair_accuracy": _pair_accuracies(accuracies, config),
        "self_scored": [o.name for o in config.objectives if o.is_self_scored],
        "units": read_measured_units(Path(work.inputs.rewards)),
        "num_prompts": len(prompts),
        "num_samples": len(samples),
        "truncated": float(np.mean([row["truncated"] for row in samples])),
        "length": float(np.mean([row["length"] for row in samples])),
        "distinct_n": distinct_bigrams([row["response"] for row in samples]),
    }
    if exact:
        columns = [name for name in exact[0] if name != "prompt_number"]
        means = {name: float(np.mean([row[name] for row in exact])) for name in columns}
        summary |= {name: means[name] for name in columns if not name.startswith("exact_")}
        summary["exact_objectives"] = {name: means[f"exact_{name}"] for name in config.objective_names}
    return summary


def distinct_bigrams(responses: Sequence[str]) -> float:
    """Distinct word pairs over all word pairs: near 0 where a policy says the same thing again and again."""
    pairs = Counter(pair for words in map(str.split, responses) for pair in pairwise(words))
    return len(pairs) / max(1, pairs.total())


def _by_prompt(samples: Sequence[Row], names: Sequence[str]) -> list[Row]:
    grouped: dict[int, list[Row]] = defaultdict(list)
    for row in samples:
        grouped[row["prompt_number"]].append(row)
    return [
        {"prompt_number": number, **{key: float(np.mean([row[key] for row in rows])) for key in (*names, "kl")}}
        for number, rows in sorted(grouped.items())
    ]


def _pair_accuracies(accuracies: Sequence[Row], config: SweepConfig) -> dict[str, dict[str, float]]:
    """Share of held-out pairs ordered as labelled, for each objective that has pairs; prompts are resampled."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in accuracies:
        grouped[row["objective"]].append(row)
    return {
        name: pair_accuracy(
            np.array([row["gap"] for row in rows]),
            [row["prompt"] for row in rows],
            seed=config.seed,
            level=config.evaluation.level,
            resamples=config.evaluation.bootstrap_resamples,
        )
        for name, rows in sorted(grouped.items())
    }


def _mean(values_P: Any, config: SweepConfig) -> Estimate:
    evaluation = config.evaluation
    return bootstrap_mean(values_P, seed=config.seed, level=evaluation.level, resamples=evaluation.bootstrap_resamples)
