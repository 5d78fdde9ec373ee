"""The same sweep on the same losses of nodes, scheduled in several ways; times are minutes."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.queues import DeskQueue, Job, Queue, ShellLoops
from benchmarks.schedule import Fleet, Schedule, simulate
from modpo.config import SweepConfig, parse_config
from modpo.config.spec import StageInputs, Work
from modpo.orchestration.plan import Inputs, SweepPlan, plan_sweep
from modpo.orchestration.resources import NodeShape, ResourcePlan, plan_resources

OURS = "modpo"
OURS_UNDISTURBED = "modpo, no losses"
OURS_NO_REUSE = "modpo, a worker group a trial"
SHELL_CHECKPOINTS = "shell loops, checkpoints"
SHELL = "shell loops"

Stages = list[list[Job]]


@dataclass(frozen=True)
class Scenario:
    """A sweep of two objectives with implicit rewards, and the machines that it runs on.

    Attributes:
        nodes: of `devices_per_node` devices each.
        workers: devices of one trial.
        training: of one point.
        scoring_share: what scoring every pair once without a gradient takes, of an epoch of training.
        start_up: of a worker group, until it asks for work.
        load: of the model, at the start of every piece of work.
        loss_every: mean time until a node is lost, exponentially distributed; 0 for never.
        part_every: what an annotation has scored is kept so often.
    """

    trials: int = 1000
    nodes: int = 100
    devices_per_node: int = 8
    workers: int = 8
    epochs: int = 3
    training: float = 60.0
    evaluation: float = 4.0
    checkpoint_every: float = 5.0
    scoring_share: float = 0.45
    start_up: float = 1.5
    load: float = 0.5
    loss_every: float = 24 * 60.0
    replacement: float = 5.0
    part_every: float = 0.5

    @property
    def scoring(self) -> float:
        """One model scores every pair, on the workers of one trial."""
        return self.scoring_share * self.training / self.epochs

    def config(self) -> SweepConfig:
        return parse_config(
            {
                "name": "scale",
                "model": {"name_or_path": "org/model"},
                "objectives": [{"name": name, "pairs": {"path": f"{name}.jsonl"}} for name in ("first", "second")],
                "training": {"num_train_epochs": self.epochs},
                "sweep": {"weights": {"lattice": self.trials - 1}},
                "resources": {"num_workers": self.workers},
            }
        )

    def fleet(self, seed: int | None) -> Fleet:
        """The same losses for every way of scheduling; none without a seed."""
        seeds: Sequence[str | None] = [None if seed is None else f"{seed}/{node}" for node in range(self.nodes)]
        return Fleet(self.devices_per_node, tuple(map(self._uptimes, seeds)), self.replacement)

    def _uptimes(self, seed: str | None) -> Iterator[float]:
        if seed is None or not self.loss_every:
            return
        drawn = random.Random(seed)
        while True:
            yield drawn.expovariate(1 / self.loss_every)


def schedules(scenario: Scenario, seed: int) -> dict[str, Schedule]:
    """What comes of each way."""
    config = scenario.config()
    plan = plan_sweep(config, Inputs(data="", model="", files={}))
    resources = _resources(scenario, config, plan)
    ours = _our_stages(scenario, plan, resources.slots)

    def run(stages: Stages, queue: Queue, *, losses: int | None = seed, reuse: bool = False) -> Schedule:
        fleet = scenario.fleet(losses)
        return simulate(stages, fleet, resources, queue, start_up=scenario.start_up, reuse=reuse)

    return {
        OURS: run(ours, _desk(config, resources), reuse=True),
        OURS_UNDISTURBED: run(ours, _desk(config, resources), losses=None, reuse=True),
        OURS_NO_REUSE: run(ours, _desk(config, resources)),
        SHELL_CHECKPOINTS: run(
            _shell_stages(scenario, plan, checkpoint_every=scenario.checkpoint_every), ShellLoops(resources.slots)
        ),
        SHELL: run(_shell_stages(scenario, plan, checkpoint_every=math.inf), ShellLoops(resources.slots)),
    }


def one_after_another(scenario: Scenario) -> float:
    """Minutes of a single shell loop on one group of workers that nothing ever happens to."""
    plan = plan_sweep(scenario.config(), Inputs(data="", model="", files={}))
    jobs = itertools.chain.from_iterable(_shell_stages(scenario, plan, checkpoint_every=math.inf))
    return sum(scenario.start_up + job.preparation + job.useful for job in jobs)


def _resources(scenario: Scenario, config: SweepConfig, plan: SweepPlan) -> ResourcePlan:
    # A core to spare on every node: that the devices decide is what this is about.
    node = NodeShape(cpus=scenario.devices_per_node + 1, gpus=scenario.devices_per_node)
    return plan_resources(config.resources, (node,) * scenario.nodes, num_trials=len(plan.trials))


def _our_stages(scenario: Scenario, plan: SweepPlan, slots: int) -> Stages:
    """As a run has them: reference, vertices, rewards, start model, points; a vertex is trained once."""
    ends = {trial.trial_id for trial in plan.vertices.values()}
    return [
        _shards("reference", scenario, slots, models=1),
        [_vertex(scenario, trial_id) for trial_id in sorted(ends)],
        _shards("rewards", scenario, slots, models=len(plan.vertices)),
        [Job("start-0", scenario.load, 0.0, math.inf, scenario.evaluation)],
        [_point(scenario, trial.trial_id, is_trained=trial.trial_id in ends) for trial in plan.points],
    ]


def _shell_stages(scenario: Scenario, plan: SweepPlan, *, checkpoint_every: float) -> Stages:
    """Each training scores the reference, and a margin of the other objective, for itself and at every start."""
    ends = {trial.trial_id for trial in plan.vertices.values()}
    own = scenario.scoring
    vertices = [_vertex(scenario, trial_id, own, checkpoint_every) for trial_id in sorted(ends)]
    margins = len(plan.vertices) - 1
    points = [
        _point(scenario, trial.trial_id, own * (1 + margins), checkpoint_every, is_trained=trial.trial_id in ends)
        for trial in plan.points
    ]
    return [vertices, points]


def _shards(kind: str, scenario: Scenario, slots: int, *, models: int) -> list[Job]:
    share = models * scenario.scoring / slots
    return [Job(f"{kind}-{number}", scenario.load, share, scenario.part_every, 0.0) for number in range(slots)]


def _vertex(scenario: Scenario, trial_id: str, own_scoring: float = 0.0, checkpoint_every: float | None = None) -> Job:
    every = scenario.checkpoint_every if checkpoint_every is None else checkpoint_every
    return Job(f"vertex-{trial_id}", scenario.load + own_scoring, scenario.training, every, 0.0)


def _point(
    scenario: Scenario,
    trial_id: str,
    own_scoring: float = 0.0,
    checkpoint_every: float | None = None,
    *,
    is_trained: bool,
) -> Job:
    """A vertex that is an end of the front is measured, and not trained again."""
    every = scenario.checkpoint_every if checkpoint_every is None else checkpoint_every
    if is_trained:
        return Job(f"point-{trial_id}", scenario.load, 0.0, every, scenario.evaluation)
    return Job(f"point-{trial_id}", scenario.load + own_scoring, scenario.training, every, scenario.evaluation)


def _desk(config: SweepConfig, resources: ResourcePlan) -> DeskQueue:
    inputs = StageInputs(prepared="", start_model="")

    def work(name: str) -> Work:
        kind = name.split("-", maxsplit=1)[0]
        return Work.model_validate(
            {"work_id": name, "kind": kind, "run_dir": "", "config": config, "inputs": inputs, "output": ""}
        )

    return DeskQueue(work, num_slots=resources.slots, max_failures=config.resources.max_failures)
