"""The simulated schedule: makespans and lost minutes by hand, and sums that must hold whatever is lost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest

from benchmarks.queues import DeskQueue, Job, ShellLoops
from benchmarks.schedule import Fleet, Schedule, simulate
from modpo.config.spec import StageInputs, Work
from modpo.orchestration.resources import ResourcePlan
from tests.sweeps import raw_sweep

START_UP, PREPARATION, TRAINING, CHECKPOINT, EVALUATION, REPLACEMENT = 2.0, 1.0, 10.0, 4.0, 3.0, 4.0


@pytest.fixture(scope="module")
def works() -> Callable[[str], Work]:
    """A piece of work for a name; the desk looks at nothing else of it."""
    from modpo.config import parse_config

    config = parse_config(raw_sweep())
    inputs = StageInputs(prepared="", start_model="")
    return lambda name: Work(work_id=name, kind="point", run_dir="", config=config, inputs=inputs, output="")


def job(number: int, **changes: float) -> Job:
    times = {"preparation": PREPARATION, "training": TRAINING, "checkpoint_every": CHECKPOINT, "evaluation": EVALUATION}
    return Job(f"job-{number}", **{**times, **changes})


def fleet(*uptimes: list[float], devices_per_node: int = 1) -> Fleet:
    """Nodes that stay this long each time, and for good where their list ends."""
    return Fleet(devices_per_node, tuple(map(iter, uptimes)), REPLACEMENT)


def slots(count: int, *, num_workers: int = 1) -> ResourcePlan:
    return ResourcePlan(count, num_workers, {}, {}, 0.0)


def scheduled(
    works: Callable[[str], Work],
    stages: list[list[Job]],
    nodes: Fleet,
    resources: ResourcePlan,
    *,
    reuse: bool = True,
    max_failures: int = 3,
) -> Schedule:
    queue = DeskQueue(works, num_slots=resources.slots, max_failures=max_failures)
    return simulate(stages, nodes, resources, queue, start_up=START_UP, reuse=reuse)


class TestWithoutLosses:
    def test_three_jobs_on_two_slots(self, works: Callable[[str], Work]) -> None:
        """2 + 14 + 14 on the first slot, 2 + 14 on the second, which is idle for the last 14."""
        found = scheduled(works, [[job(n) for n in range(3)]], fleet([], []), slots(2))
        assert (found.makespan, found.held, found.useful, found.lost) == (30.0, 60.0, 39.0, 0.0)
        assert (found.starting, found.idle) == (2 * START_UP + 3 * PREPARATION, 14.0)
        assert found.utilisation == pytest.approx(39 / 60)

    def test_a_worker_group_for_each_job_starts_up_each_time(self, works: Callable[[str], Work]) -> None:
        found = scheduled(works, [[job(n) for n in range(3)]], fleet([], []), slots(2), reuse=False)
        assert (found.makespan, found.starting) == (32.0, 3 * (START_UP + PREPARATION))

    def test_a_stage_waits_for_the_one_before_it(self, works: Callable[[str], Work]) -> None:
        """One job of 14, then two at once: 2 + 14 + 14; the second slot has been up since minute 2 and waits."""
        found = scheduled(works, [[job(0)], [job(1), job(2)]], fleet([], []), slots(2))
        assert (found.makespan, found.useful, found.idle) == (30.0, 39.0, 14.0)

    def test_workers_of_a_slot_count_each(self, works: Callable[[str], Work]) -> None:
        """Two slots of two workers on nodes of two devices: as above, in twice the devices."""
        resources, nodes = slots(2, num_workers=2), fleet([], [], devices_per_node=2)
        found = scheduled(works, [[job(n) for n in range(3)]], nodes, resources)
        assert (found.makespan, found.held, found.useful, found.idle) == (30.0, 120.0, 78.0, 28.0)

    def test_a_shell_loop_keeps_its_list(self) -> None:
        """Jobs of 20, 1, 20 and 1 minutes of training: in turn, the first loop gets both long ones, 2 + 4 + 20 each."""
        jobs = [job(n, training=20.0 if n % 2 == 0 else 1.0) for n in range(4)]
        found = simulate([jobs], fleet([], []), slots(2), ShellLoops(2), start_up=START_UP, reuse=False)
        assert found.makespan == 52.0

    def test_the_desk_gives_the_next_job_to_whoever_is_free(self, works: Callable[[str], Work]) -> None:
        """The same jobs: 2 + 24 and 2 + 5 + 24 + 5, the last two on the slot that had the short one."""
        jobs = [job(n, training=20.0 if n % 2 == 0 else 1.0) for n in range(4)]
        found = scheduled(works, [jobs], fleet([], []), slots(2))
        assert found.makespan == 31.0


class TestOneLoss:
    def test_in_training_goes_back_to_the_checkpoint(self, works: Callable[[str], Work]) -> None:
        """Lost at 9.5: 2 + 1 + 6.5 minutes of training, 4 of them kept. Back at 13.5, training from 16.5 to 22.5."""
        found = scheduled(works, [[job(0)]], fleet([9.5]), slots(1))
        assert (found.makespan, found.lost, found.useful, found.num_losses) == (25.5, 2.5, 13.0, 1)
        assert (found.held, found.starting, found.idle) == (25.5 - REPLACEMENT, 2 * (START_UP + PREPARATION), 0.0)

    def test_without_checkpoints_everything_is_lost(self, works: Callable[[str], Work]) -> None:
        """Back at 13.5, then 2 + 1 + 10 + 3."""
        found = scheduled(works, [[job(0, checkpoint_every=math.inf)]], fleet([9.5]), slots(1))
        assert (found.makespan, found.lost) == (29.5, 6.5)

    def test_in_evaluation_keeps_the_training(self, works: Callable[[str], Work]) -> None:
        """Lost at 15, two minutes into the evaluation. Back at 19, then 2 + 1 + 3."""
        found = scheduled(works, [[job(0)]], fleet([15.0]), slots(1))
        assert (found.makespan, found.lost, found.useful) == (25.0, 2.0, 13.0)

    def test_in_start_up_loses_no_work(self, works: Callable[[str], Work]) -> None:
        """Lost at 1, back at 5: one minute of start-up, and all of it again."""
        found = scheduled(works, [[job(0)]], fleet([1.0]), slots(1))
        assert (found.makespan, found.lost, found.starting) == (21.0, 0.0, 1 + START_UP + PREPARATION)

    def test_stops_every_worker_of_the_slot(self, works: Callable[[str], Work]) -> None:
        """Two nodes carry one slot: the node that stays is held and idle for the 4 minutes of the replacement."""
        found = scheduled(works, [[job(0)]], fleet([9.5], []), slots(1, num_workers=2))
        assert (found.makespan, found.lost, found.held, found.idle) == (25.5, 5.0, 2 * 25.5 - REPLACEMENT, REPLACEMENT)

    def test_takes_all_slots_of_the_node_and_no_other(self, works: Callable[[str], Work]) -> None:
        """Two slots on the node that is lost at 9.5, one on the other: 2 x 2.5 minutes."""
        nodes = fleet([9.5], [], devices_per_node=2)
        found = scheduled(works, [[job(n) for n in range(3)]], nodes, slots(3))
        assert (found.makespan, found.lost, found.useful) == (25.5, 5.0, 39.0)

    def test_after_the_last_job_does_not_count(self, works: Callable[[str], Work]) -> None:
        assert scheduled(works, [[job(0)]], fleet([16.5]), slots(1)).num_losses == 0


def test_work_that_loses_its_workers_too_often_has_failed(works: Callable[[str], Work]) -> None:
    """Every 4 minutes, before any checkpoint: one attempt and one more are allowed, then the second job is next."""
    found = scheduled(works, [[job(0), job(1)]], fleet([4.0, 4.0]), slots(1), max_failures=1)
    assert (found.num_failed, found.num_losses, found.lost) == (1, 2, 2.0)
    assert found.makespan == 4 + 4 + 4 + 4 + 2 + 14


class TestManyLosses:
    def uptimes(self, seed: int) -> Iterator[float]:
        drawn = random.Random(seed)
        while True:
            yield drawn.expovariate(1 / 40)

    @pytest.mark.parametrize("reuse", [True, False])
    @pytest.mark.parametrize("seed", range(3))
    def test_minutes_add_up(self, works: Callable[[str], Work], reuse: bool, seed: int) -> None:
        jobs = [job(n) for n in range(40)]
        nodes = Fleet(2, tuple(self.uptimes(seed * 100 + node) for node in range(4)), REPLACEMENT)
        found = scheduled(works, [jobs[:3], jobs[3:]], nodes, slots(4, num_workers=2), reuse=reuse, max_failures=100)
        assert found.num_losses > 5 and found.num_failed == 0
        assert found.useful == pytest.approx(2 * sum(each.useful for each in jobs))
        assert found.lost > 0 and found.idle > -1e-9
        assert found.held <= 8 * found.makespan

    def test_the_same_losses_give_the_same_schedule(self, works: Callable[[str], Work]) -> None:
        schedules = [
            scheduled(
                works,
                [[job(n) for n in range(20)]],
                Fleet(1, tuple(self.uptimes(node) for node in range(4)), REPLACEMENT),
                slots(4),
                max_failures=100,
            )
            for _ in range(2)
        ]
        assert schedules[0] == schedules[1]
