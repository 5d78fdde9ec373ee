"""How many trials fit: counted by hand on small clusters."""

from __future__ import annotations

import random
from typing import Any

import pytest

from modpo.config.tree import ModelConfig, ResourcesConfig
from modpo.errors import SetupError
from modpo.orchestration.resources import DRIVER_RESOURCE, NodeShape, ResourcePlan, check_workers, plan_resources

LAPTOP = (NodeShape(cpus=2, gpus=0, drivers=1000),)
HEAD = NodeShape(cpus=0, gpus=0, drivers=3)
GPU_NODE = NodeShape(cpus=16, gpus=4)


def slots(nodes: tuple[NodeShape, ...], *, num_trials: int = 100, **config: Any) -> int:
    return plan_resources(ResourcesConfig(**config), nodes, num_trials=num_trials).slots


def test_a_laptop_trains_one_trial_a_core() -> None:
    assert slots(LAPTOP) == 2


def test_never_more_slots_than_trials_or_than_asked() -> None:
    assert slots(LAPTOP, num_trials=1) == 1
    assert slots(LAPTOP, max_concurrent=1) == 1


def test_gpus_are_taken_where_there_are_any() -> None:
    plan = plan_resources(ResourcesConfig(), (GPU_NODE, GPU_NODE), num_trials=100)
    assert (plan.slots, plan.worker) == (8, {"CPU": 1.0, "GPU": 1.0})


def test_workers_do_not_span_a_gpu_over_nodes() -> None:
    # 6 workers of 3 GPUs would fit 18 GPUs in sum, and 4 nodes of 4 GPUs hold one each.
    assert slots((GPU_NODE,) * 4, gpus_per_worker=3, num_workers=2) == 2


def test_fractional_gpus_share_a_device() -> None:
    assert slots((NodeShape(cpus=16, gpus=1),), gpus_per_worker=0.25) == 4


def test_driver_nodes_limit_the_slots_they_must_hold() -> None:
    plan = plan_resources(ResourcesConfig(), (HEAD, GPU_NODE, GPU_NODE), num_trials=100)
    assert (plan.slots, plan.driver) == (3, {"sweep_driver": 0.9})


def test_without_driver_nodes_drivers_leave_workers_their_cores() -> None:
    # Two workers of one core and their drivers do not fit two cores: the second worker would wait for ever.
    assert slots((NodeShape(cpus=2, gpus=0),)) == 1


@pytest.mark.parametrize(
    ("config", "got"),
    [
        (
            {"gpus_per_worker": 1},
            "1 nodes with 2 CPUs and 0 GPUs hold 0 of its 1 workers; "
            "a worker is never split over nodes, and the largest has 2 CPUs, 0 GPUs",
        ),
        ({"num_workers": 3}, "1 nodes with 2 CPUs and 0 GPUs hold 2 of its 3 workers"),
    ],
)
def test_a_trial_that_does_not_fit_is_refused_in_numbers(config: dict[str, Any], got: str) -> None:
    with pytest.raises(SetupError) as caught:
        slots(LAPTOP, **config)
    (problem,) = caught.value.problems
    assert (problem.code, problem.got, caught.value.exit_status) == ("MS-401", got, 4)


def test_a_model_in_4_bits_needs_workers_with_a_gpu() -> None:
    plain, four_bits = (ModelConfig(name_or_path="org/model", load_in_4bit=value) for value in (False, True))
    without = [plan_resources(ResourcesConfig(), LAPTOP, num_trials=1)]
    without.append(plan_resources(ResourcesConfig(gpus_per_worker=0), (HEAD, GPU_NODE), num_trials=1))
    for plan in without:
        check_workers(plain, plan)
        with pytest.raises(SetupError) as caught:
            check_workers(four_bits, plan)
        assert [problem.code for problem in caught.value.problems] == ["MS-403"]
    for share in (None, 0.5):
        check_workers(four_bits, plan_resources(ResourcesConfig(gpus_per_worker=share), (GPU_NODE,), num_trials=1))


def test_workers_are_counted_on_the_nodes_with_their_labels_only() -> None:
    fast, slow = (NodeShape(cpus=16, gpus=4, labels={"ray.io/accelerator-type": kind}) for kind in ("H100", "L4"))
    wanted = {"ray.io/accelerator-type": "H100"}
    assert slots((fast, slow, slow), node_labels=wanted) == 4
    assert slots((fast, slow, slow)) == 12
    # One that an autoscaler may add has labels that nobody knows before, but its GPUs are what they are.
    assert slots((NodeShape(cpus=16, gpus=4, has_more_labels=True),), node_labels=wanted) == 4
    later = NodeShape(cpus=16, gpus=4, labels=slow.labels, has_more_labels=True)
    with pytest.raises(SetupError, match=r"on nodes with the labels ray\.io/accelerator-type=H100"):
        slots((later, slow), node_labels=wanted)


def test_a_trial_is_packed_onto_as_few_nodes_as_hold_it() -> None:
    """4 + 4 + 2 GPUs: 5 workers need two of the nodes, 9 need all."""
    nodes = (GPU_NODE, NodeShape(cpus=16, gpus=2), GPU_NODE)
    found = [plan_resources(ResourcesConfig(num_workers=n), nodes, num_trials=1).nodes_per_trial for n in (4, 5, 9)]
    assert found == [1, 2, 3]


@pytest.mark.parametrize(
    ("nodes", "config", "limit"),
    [
        (LAPTOP, {}, "the nodes have room for the workers of 2 trials, so 2 trials at once"),
        (LAPTOP, {"max_concurrent": 1}, "resources.max_concurrent is 1, so 1 trial at once"),
        ((HEAD, GPU_NODE), {}, "the nodes for drivers hold 3 drivers, so 3 trials at once"),
    ],
)
def test_it_says_what_keeps_more_trials_from_running(
    nodes: tuple[NodeShape, ...], config: dict[str, Any], limit: str
) -> None:
    assert plan_resources(ResourcesConfig(**config), nodes, num_trials=9).limits == (limit,)


def test_more_slots_than_fit_and_too_little_memory_for_helpers_are_said_before_the_start() -> None:
    """4 trials at once with 1.3 GiB of helpers each need 5.2 GiB of the 3 that the driver's node has."""
    nodes = (NodeShape(cpus=0, gpus=0, drivers=10, memory_gib=3), GPU_NODE)
    _, asked, memory = plan_resources(ResourcesConfig(max_concurrent=6), nodes, num_trials=9).limits
    assert asked == "resources.max_concurrent asks for 6 trials at once, and 4 fit"
    assert memory == (
        "the helpers of 4 drivers take about 5.2 GiB, and the nodes for drivers have 3.0: "
        "lower resources.max_concurrent to 2"
    )


def test_fewer_workers_are_asked_for_where_the_sweep_file_says() -> None:
    elastic = plan_resources(ResourcesConfig(num_workers=4, min_workers=2), (GPU_NODE,), num_trials=9)
    assert (elastic.is_elastic, elastic.min_workers, elastic.num_workers) == (True, 2, 4)
    for config in (ResourcesConfig(num_workers=4), ResourcesConfig(num_workers=4, min_workers=4)):
        assert not plan_resources(config, (GPU_NODE,), num_trials=9).is_elastic


def test_all_slots_find_room_at_once_wherever_ray_puts_their_drivers() -> None:
    """A thousand clusters: drivers where they do most harm, then whole groups of workers one after another."""
    draw = random.Random(0)
    for _ in range(1000):
        has_drivers = draw.random() < 0.5
        nodes = tuple(
            NodeShape(
                cpus=draw.choice([1, 2, 4, 7.5]),
                gpus=draw.choice([0, 1, 4]),
                drivers=draw.choice([0, 3]) if has_drivers else 0,
            )
            for _ in range(draw.randint(1, 5))
        )
        config = ResourcesConfig(
            num_workers=draw.randint(1, 4),
            cpus_per_worker=draw.choice([0.5, 1, 2]),
            gpus_per_worker=draw.choice([0, 0.25, 1, 2]),
        )
        try:
            plan = plan_resources(config, nodes, num_trials=20)
        except SetupError:
            continue
        assert all_are_placed(plan, nodes), (config, nodes)


def all_are_placed(plan: ResourcePlan, nodes: tuple[NodeShape, ...]) -> bool:
    """Whether the drivers of all slots, each with its Tune trial, and then all workers are given their room."""
    free = [{"CPU": node.cpus, "GPU": node.gpus, DRIVER_RESOURCE: node.drivers} for node in nodes]
    share = {name: amount / 0.9 if name == DRIVER_RESOURCE else 2 * amount for name, amount in plan.driver.items()}
    for _ in range(plan.slots):
        if not take(free, share):
            return False
    return all(take(free, plan.worker) for _ in range(plan.slots * plan.num_workers))


def take(free: list[dict[str, float]], amounts: dict[str, float]) -> bool:
    for node in free:
        if all(node[name] >= amount - 1e-9 for name, amount in amounts.items()):
            for name, amount in amounts.items():
                node[name] -= amount
            return True
    return False
