"""How many trials fit a cluster at once: pure arithmetic, shortfalls as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from modpo.config.quantised import no_gpu
from modpo.config.tree import ModelConfig, ResourcesConfig
from modpo.errors import Problem, SetupError
from modpo.orchestration.gpus import ACCELERATOR_LABEL

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
    """One node as the plan sees it.

    Attributes:
        drivers: the custom resource that marks nodes for drivers.
        labels: Ray's labels of the node.
        has_more_labels: an autoscaler may add the node, and labels beyond these are not known before.
        gpu_gib: memory of one of its GPUs, where that is known.
        memory_gib: its main memory, where that is known.
    """

    cpus: float
    gpus: float
    drivers: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    has_more_labels: bool = False
    gpu_gib: float | None = None
    memory_gib: float | None = None

    def matches(self, wanted: Mapping[str, str]) -> bool:
        """Whether workers that ask for these labels may be put here."""
        return all(
            self.labels[name] == value if name in self.labels else self.has_more_labels
            for name, value in wanted.items()
        )


@dataclass(frozen=True)
class ResourcePlan:
    """What a trial takes and how many run at once.

    Attributes:
        slots: worker groups that fit together; a slot works through one trial after another.
        worker: resources of one worker, as Ray names them.
        driver: resources of a slot's driver, which needs none to speak of.
        helper_gib: memory that the drivers' helper processes take together.
        min_workers: workers that a slot goes on with where there is no room for all.
        node_labels: of the nodes that workers may be put on.
        nodes_per_trial: nodes that the workers of one trial are spread over at least.
        device_gib: memory that a worker has on its GPU, the smallest that it may get; None where that is not known.
        accelerator: Ray's name of that kind of GPU, where there is only one.
        limits: why no more run at once, and what may run short, as sentences.
    """

    slots: int
    num_workers: int
    worker: dict[str, float]
    driver: dict[str, float]
    helper_gib: float
    min_workers: int = 0
    node_labels: dict[str, str] = field(default_factory=dict)
    nodes_per_trial: int = 1
    device_gib: float | None = None
    accelerator: str = ""
    limits: tuple[str, ...] = ()

    @property
    def gpus_per_worker(self) -> float:
        return self.worker.get("GPU", 0.0)

    @property
    def is_elastic(self) -> bool:
        return 0 < self.min_workers < self.num_workers


def plan_resources(config: ResourcesConfig, nodes: tuple[NodeShape, ...], *, num_trials: int) -> ResourcePlan:
    """Places workers on nodes; never more slots than trials.

    All slots find room at the same time: their workers' bundles are alike, so that whatever is placed first leaves the
    same number of places, and what drivers take is left out before workers are counted. A group of workers is reserved
    as a whole or not at all. So no slot waits for another.

    Raises:
        SetupError: not even one trial fits, saying what is short.
    """
    gpus_per_worker = _gpus_per_worker(config, nodes)
    worker = {"CPU": config.cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    drivers = sum(node.drivers for node in nodes)
    places = _places(config, nodes, gpus_per_worker)
    if sum(places) < config.num_workers:
        raise SetupError(_shortfall(config, nodes, gpus_per_worker, places))
    fit = sum(places) // config.num_workers
    bounds = [
        (fit, f"the nodes have room for the workers of {_counted(fit, 'trial')}"),
        (num_trials, f"there {'are' if num_trials > 1 else 'is'} {_counted(num_trials, 'trial')}"),
        (config.max_concurrent or num_trials, f"resources.max_concurrent is {config.max_concurrent}"),
        (int(drivers) or num_trials, f"the nodes for drivers hold {_counted(int(drivers), 'driver')}"),
    ]
    slots = max(1, min(number for number, _ in bounds))
    least = next(reason for number, reason in bounds if max(1, number) == slots)
    return ResourcePlan(
        slots=slots,
        num_workers=config.num_workers,
        worker=worker,
        driver={DRIVER_RESOURCE: SLOT_SHARE} if drivers else {"CPU": 0.01},
        helper_gib=round(slots * HELPER_GIB_PER_TRIAL, 1),
        min_workers=config.min_workers or config.num_workers,
        node_labels=dict(config.node_labels),
        nodes_per_trial=_nodes_per_trial(places, config.num_workers),
        device_gib=_device_gib(config, nodes, gpus_per_worker),
        accelerator=_accelerator(config, nodes),
        limits=(f"{least}, so {_counted(slots, 'trial')} at once", *_shortages(config, nodes, slots, fit)),
    )


def check_workers(model: ModelConfig, plan: ResourcePlan) -> None:
    """Whether the workers of a trial can train this model.

    Raises:
        SetupError: it is in 4 bits, and they have no GPU.
    """
    if model.load_in_4bit and not plan.gpus_per_worker:
        raise SetupError(no_gpu())


def _gpus_per_worker(config: ResourcesConfig, nodes: Sequence[NodeShape]) -> float:
    """One where any node that workers may be put on has GPUs, unless the sweep file says."""
    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    return 1.0 if any(node.gpus for node in nodes if node.matches(config.node_labels)) else 0.0


def _places(config: ResourcesConfig, nodes: Sequence[NodeShape], gpus_per_worker: float) -> list[int]:
    """Workers that each node has room for: a worker is never split over nodes."""
    reserved = 0.0 if any(node.drivers for node in nodes) else RESERVED_CPUS

    def on(node: NodeShape) -> int:
        if not node.matches(config.node_labels):
            return 0
        by_cpu = int((node.cpus - reserved + ROUNDING) // config.cpus_per_worker)
        by_gpu = int((node.gpus + ROUNDING) // gpus_per_worker) if gpus_per_worker else by_cpu
        return max(0, min(by_cpu, by_gpu))

    return [on(node) for node in nodes]


def _device_gib(config: ResourcesConfig, nodes: Sequence[NodeShape], gpus_per_worker: float) -> float | None:
    """A worker on a share of a GPU has that share of its memory, and one that was given several trains on one."""
    sizes = [node.gpu_gib for node in nodes if node.gpus and node.matches(config.node_labels)]
    known = [size for size in sizes if size is not None]
    return min(known) * min(gpus_per_worker, 1.0) if gpus_per_worker and known else None


def _accelerator(config: ResourcesConfig, nodes: Sequence[NodeShape]) -> str:
    kinds = {node.labels.get(ACCELERATOR_LABEL, "") for node in nodes if node.gpus and node.matches(config.node_labels)}
    return kinds.pop() if len(kinds) == 1 else ""


def _nodes_per_trial(places: Sequence[int], num_workers: int) -> int:
    """Packed onto as few nodes as hold them, the largest first."""
    filled = accumulate(sorted(places, reverse=True))
    return 1 + sum(1 for room in filled if room < num_workers)


def _shortages(config: ResourcesConfig, nodes: Sequence[NodeShape], slots: int, fit: int) -> Iterator[str]:
    """What stops nothing, and should be known before hours are spent."""
    if config.max_concurrent is not None and config.max_concurrent > fit:
        yield f"resources.max_concurrent asks for {config.max_concurrent} trials at once, and {fit} fit"
    drivers = [node for node in nodes if node.drivers] or list(nodes)
    known = [node.memory_gib for node in drivers if node.memory_gib is not None]
    needed = slots * HELPER_GIB_PER_TRIAL
    if len(known) == len(drivers) and sum(known) < needed:
        yield (
            f"the helpers of {_counted(slots, 'driver')} take about {needed:.1f} GiB, and the nodes for drivers have "
            f"{sum(known):.1f}: lower resources.max_concurrent to {max(1, int(sum(known) / HELPER_GIB_PER_TRIAL))}"
        )


def _shortfall(
    config: ResourcesConfig, nodes: Sequence[NodeShape], gpus_per_worker: float, places: Sequence[int]
) -> Problem:
    fitting = [node for node in nodes if node.matches(config.node_labels)]
    cpus, gpus = sum(node.cpus for node in fitting), sum(node.gpus for node in fitting)
    labels = ", ".join(f"{name}={value}" for name, value in config.node_labels.items())
    remedy = "lower resources.num_workers, cpus_per_worker or gpus_per_worker, or add nodes"
    wanted = f"{config.num_workers} workers with {config.cpus_per_worker:g} CPUs and {gpus_per_worker:g} GPUs each"
    if labels:
        remedy, wanted = f"{remedy}; or mend resources.node_labels", f"{wanted}, on nodes with the labels {labels}"
    held = f"{sum(places)} of its {config.num_workers} workers"
    got = f"{len(fitting)} nodes with {cpus:g} CPUs and {gpus:g} GPUs hold {held}"
    if not any(places) and fitting:
        largest = max(fitting, key=lambda node: (node.gpus, node.cpus))
        got += f"; a worker is never split over nodes, and the largest has {largest.cpus:g} CPUs, {largest.gpus:g} GPUs"
    return Problem(
        code="MS-401",
        what="one trial does not fit the cluster",
        where="resources",
        got=got,
        wanted=wanted,
        remedy=remedy,
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
