"""What the workers of one trial may ask for, as far as the sweep file says."""

from __future__ import annotations

from collections.abc import Iterator

from modpo.config.tree import SweepConfig
from modpo.errors import Problem


def check_workers(config: SweepConfig) -> Iterator[Problem]:
    """Numbers of workers and shares of GPUs that no cluster could give."""
    resources = config.resources
    workers, fewest, gpus = resources.num_workers, resources.min_workers, resources.gpus_per_worker
    if fewest is not None and fewest > workers:
        yield Problem(
            code="MS-163",
            what="a trial cannot have fewer workers than the fewest it goes on with",
            where="resources.min_workers",
            got=f"{fewest}, and num_workers is {workers}",
            wanted=f"1 to {workers}",
            remedy="lower resources.min_workers, or raise resources.num_workers",
        )
    if gpus is not None and 0 < gpus < 1 and workers > 1:
        yield Problem(
            code="MS-164",
            what="workers of one trial cannot share a GPU: NCCL refuses two ranks on one device",
            where="resources.gpus_per_worker",
            got=f"{gpus:g} for each of {workers} workers",
            wanted="1 GPU a worker, or one worker a trial: several trials may share a GPU",
            remedy="set resources.num_workers to 1 and raise training.gradient_accumulation_steps as much",
        )
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        yield Problem(
            code="MS-165",
            what="Ray gives out shares of one GPU, or whole GPUs",
            where="resources.gpus_per_worker",
            got=f"{gpus:g}",
            wanted="at most 1, or a whole number",
            remedy="round it: a worker trains on one GPU, so 1 is the usual number",
        )
