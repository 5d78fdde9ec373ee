"""How many trials fit a cluster at once: pure arithmetic, shortfalls as sentences."""

from __future__ import annotations

from dataclasses import dataclass

from modpo.config.quantised import no_gpu
from modpo.config.tree import ModelConfig, ResourcesConfig
from modpo.errors import Problem, SetupError

# What one running trial keeps beside its workers, on the node of its driver: controller, queue, cleaner and so on.
HELPER_GIB_PER_TRIAL = 1.3
DRIVER_RESOURCE = "sweep_driver"

# Of one unit of that resource: the slot's driver takes nine tenths, and leaves room for the Tune trial it works for.
SLOT_SHARE = 0.9

# On a cluster without driver nodes every driver takes a hundredth of a core, which must not push a worker out.
RESERVED_CPUS = 0.5
ROUNDING = 1e-9


@dataclass(frozen=True)
class NodeShape:
    """Processors and accelerators of one node, and the custom resource that marks nodes for drivers."""

    cpus: float
    gpus: float
    drivers: float = 0.0


@dataclass(frozen=True)
class ResourcePlan:
    """What a trial takes and how many run at once.

    Attributes:
        slots: worker groups that fit together; a slot works through one trial after another.
        worker: resources of one worker, as Ray names them.
        driver: resources of a slot's driver, which needs none to speak of.
        helper_gib: memory that the drivers' helper processes take together.
    """

    slots: int
    num_workers: int
    worker: dict[str, float]
    driver: dict[str, float]
    helper_gib: float

    @property
    def gpus_per_worker(self) -> float:
        return self.worker.get("GPU", 0.0)


def plan_resources(config: ResourcesConfig, nodes: tuple[NodeShape, ...], *, num_trials: int) -> ResourcePlan:
    """Places workers on nodes; never more slots than trials.

    Raises:
        SetupError: not even one trial fits, saying what is short.
    """
    gpus = sum(node.gpus for node in nodes)
    gpus_per_worker = (1.0 if gpus else 0.0) if config.gpus_per_worker is None else config.gpus_per_worker
    worker = {"CPU": config.cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    drivers = sum(node.drivers for node in nodes)
    reserved = 0.0 if drivers else RESERVED_CPUS
    workers = sum(_workers_on(node.cpus - reserved, node.gpus, config, gpus_per_worker) for node in nodes)
    if workers < config.num_workers:
        raise SetupError(_shortfall(config, nodes, gpus_per_worker, workers))
    slots = max(1, min(workers // config.num_workers, num_trials, config.max_concurrent or num_trials))
    if drivers:
        slots = max(1, min(slots, int(drivers)))
    driver = {DRIVER_RESOURCE: SLOT_SHARE} if drivers else {"CPU": 0.01}
    return ResourcePlan(slots, config.num_workers, worker, driver, round(slots * HELPER_GIB_PER_TRIAL, 1))


def check_workers(model: ModelConfig, plan: ResourcePlan) -> None:
    """Whether the workers of a trial can train this model.

    Raises:
        SetupError: it is in 4 bits, and they have no GPU.
    """
    if model.load_in_4bit and not plan.gpus_per_worker:
        raise SetupError(no_gpu())


def _workers_on(cpus: float, gpus: float, config: ResourcesConfig, gpus_per_worker: float) -> int:
    by_cpu = int((cpus + ROUNDING) // config.cpus_per_worker)
    by_gpu = int((gpus + ROUNDING) // gpus_per_worker) if gpus_per_worker else by_cpu
    return max(0, min(by_cpu, by_gpu))


def _shortfall(config: ResourcesConfig, nodes: tuple[NodeShape, ...], gpus_per_worker: float, fit: int) -> Problem:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return Problem(
        code="MS-401",
        what="one trial does not fit the cluster",
        where="resources",
        got=f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs hold {fit} of its {config.num_workers} workers",
        wanted=f"{config.num_workers} workers with {config.cpus_per_worker:g} CPUs and {gpus_per_worker:g} GPUs each",
        remedy="lower resources.num_workers, cpus_per_worker or gpus_per_worker, or add nodes",
    )
