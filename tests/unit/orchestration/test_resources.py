"""How many trials fit: counted by hand on small clusters."""

from __future__ import annotations

from typing import Any

import pytest

from modpo.config.tree import ModelConfig, ResourcesConfig
from modpo.errors import SetupError
from modpo.orchestration.resources import NodeShape, check_workers, plan_resources

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
    # 3 workers of 1.5 GPUs fit 4 + 4 GPUs only as 2 + 2: a pair of nodes holds 4 workers, not 5.
    assert slots((GPU_NODE, GPU_NODE), gpus_per_worker=1.5, num_workers=2) == 2


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
        ({"gpus_per_worker": 1}, "1 nodes with 2 CPUs and 0 GPUs hold 0 of its 1 workers"),
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
