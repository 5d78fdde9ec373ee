"""What every cluster file promises, whatever the cloud: who gets in, what is bought when, and that a sweep fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from modpo.config.tree import ResourcesConfig
from modpo.orchestration.resources import DRIVER_RESOURCE, NodeShape, plan_resources
from ray_jobs.clusters.check import LOOPBACK
from tests.unit.clusters.descriptions import FILES, Cluster, documents, read_cluster, values_of
from tests.unit.clusters.image import environment

# Upper end of what one concurrent trial's helper processes were measured to take, in GB.
HELPER_GB = 1.7
GB_PER_GIB = 1.073741824
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{12}|\bhf_[A-Za-z0-9]{8}|\bgh[pousr]_[A-Za-z0-9]{8}|\bsk-[A-Za-z0-9]{8}|PRIVATE KEY"
    r"|(TOKEN|SECRET|PASSWORD|KEY)=|(?<!sha256:)\b[0-9a-f]{40,}\b"
)
SECRET_NAMES = re.compile(r"token|secret|password|passwd|credential", re.IGNORECASE)
# Under these names stand no secrets, but where one is to be found or must be shown.
REFERENCES = {"secretName", "HttpTokens", "~/.ray/auth_token"}


@pytest.fixture(params=FILES)
def cluster(repository: Path, request: pytest.FixtureRequest) -> Cluster:
    return read_cluster(repository, request.param)


def test_every_process_of_the_cluster_asks_for_the_token(cluster: Cluster) -> None:
    assert len(cluster.authenticated) >= 2
    assert all(cluster.authenticated)


def test_the_dashboard_listens_on_loopback(cluster: Cluster) -> None:
    # But for the job that KubeRay's operator itself submits: the tests of Kubernetes say who reaches that one.
    assert cluster.dashboard_hosts == (() if cluster.name == "rayjob" else (LOOPBACK,))


def test_nothing_is_open_to_every_address(cluster: Cluster) -> None:
    assert not re.search(r"0\.0\.0\.0|::/0|LoadBalancer|NodePort|Ingress:|privileged: *true|hostNetwork", cluster.text)


def test_what_must_not_vanish_is_bought_on_demand(cluster: Cluster) -> None:
    assert not cluster.head.spot
    assert {name for name, group in cluster.workers.items() if not group.spot} == {"driver"}


def test_workers_come_from_zero_and_never_without_end(cluster: Cluster) -> None:
    assert all(group.minimum == 0 and 0 < group.maximum <= 100 for group in cluster.workers.values())


def test_idle_nodes_go(cluster: Cluster) -> None:
    # Within the hour, but not between two stages of a run.
    assert 300 <= cluster.idle_seconds <= 3600


def test_the_head_takes_no_work_and_drivers_have_nodes_of_their_own(cluster: Cluster) -> None:
    assert (cluster.head.resources["CPU"], cluster.head.resources["GPU"]) == (0, 0)
    assert [DRIVER_RESOURCE in group.resources for group in cluster.groups] == [
        False,
        *(name == "driver" for name in cluster.workers),
    ]
    driver = cluster.workers["driver"].resources
    assert (driver["CPU"], driver["GPU"]) == (0, 0)


def test_a_driver_node_holds_the_helpers_of_all_its_trials(cluster: Cluster) -> None:
    driver = cluster.workers["driver"]
    needed = driver.resources[DRIVER_RESOURCE] * HELPER_GB
    # What Ray and the system take themselves is on top.
    assert needed + 1.5 <= driver.memory_gib * GB_PER_GIB


def test_a_sweep_fits_with_a_trial_on_every_gpu(cluster: Cluster) -> None:
    shapes = tuple(
        NodeShape(
            cpus=group.resources["CPU"],
            gpus=group.resources.get("GPU", 0),
            drivers=group.resources.get(DRIVER_RESOURCE, 0),
        )
        for group in (cluster.head, *(each for each in cluster.workers.values() for _ in range(each.maximum)))
    )
    planned = plan_resources(ResourcesConfig(), shapes, num_trials=100)
    assert planned.slots == sum(shape.gpus for shape in shapes)
    assert planned.worker["GPU"] == 1
    assert set(planned.driver) == {DRIVER_RESOURCE}


def test_all_nodes_run_one_image_named_by_its_digest(cluster: Cluster) -> None:
    (image,) = {group.image for group in cluster.groups}
    assert re.fullmatch(r"\S+/modpo@sha256:\S+", image)


def test_runs_are_on_storage_that_all_nodes_share_and_that_outlives_them(cluster: Cluster) -> None:
    assert all(group.storage for group in cluster.groups)


def test_only_the_head_may_call_the_cloud(cluster: Cluster) -> None:
    assert [group.may_call_the_cloud for group in cluster.groups] == [True, *(False for _ in cluster.workers)]


def test_no_file_holds_a_secret(cluster: Cluster, repository: Path) -> None:
    assert not SECRETS.search(cluster.text)
    for document in documents(repository, cluster.name):
        assert not [
            (name, value)
            for name, value in values_of(document)
            if SECRET_NAMES.search(name) and name not in REFERENCES and isinstance(value, str)
        ]


def test_the_processes_have_the_variables_of_the_runtime_environment(cluster: Cluster, repository: Path) -> None:
    expected = yaml.safe_load((repository / "ray_jobs" / "runtime_env.yaml").read_text())["env_vars"]
    assert expected.items() <= environment(repository).items()
    if cluster.job_environment is not None:
        assert cluster.job_environment == expected
    # Ray's launcher exports its own switch in front of the command, as the user's machine has it.
    if cluster.name in {"aws", "gcp"}:
        assert cluster.text.count("export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0;") == 2


def test_the_page_names_every_file_and_prices_every_machine(repository: Path) -> None:
    page = (repository / "docs" / "cluster.md").read_text()
    assert all(f"`{path}`" in page for path in FILES.values())
    priced = "".join(line for line in page.split("## What it costs")[1].splitlines() if line.startswith("| "))
    for name in ("aws", "gcp"):
        for node_type in documents(repository, name)[0]["available_node_types"].values():
            node = node_type["node_config"]
            assert (node.get("InstanceType") or node["machineType"]) in priced
