"""The files for Kubernetes: field by field as KubeRay's API has them, and closed to everyone else in the cluster."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
from packaging.requirements import Requirement
from pydantic import ValidationError

from modpo.config.load import load_config
from ray_jobs.clusters.check import as_read_by_the_autoscaler
from tests.unit.clusters.descriptions import documents
from tests.unit.clusters.kuberay_types import Container, EnvVar, RayCluster, RayClusterSpec, RayJob

IN_THE_IMAGE = "/opt/modpo/"


@pytest.fixture
def job(repository: Path) -> RayJob:
    return RayJob.model_validate(documents(repository, "rayjob")[0])


@pytest.fixture(params=["kuberay", "rayjob"])
def resource(repository: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    return documents(repository, request.param)[0]


@pytest.fixture
def spec(resource: dict[str, Any]) -> RayClusterSpec:
    if resource["kind"] == "RayJob":
        return RayJob.model_validate(resource).spec.ray_cluster_spec
    return RayCluster.model_validate(resource).spec


def containers(spec: RayClusterSpec) -> list[Container]:
    groups = [spec.head_group_spec, *spec.worker_group_specs]
    found = [container for group in groups for container in group.template.spec.containers]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("slip", ["field", "kind", "replicas", "type", "service"])
def test_a_slip_in_a_file_is_seen(repository: Path, slip: str) -> None:
    resource = documents(repository, "kuberay")[0]
    RayCluster.model_validate(copy.deepcopy(resource))
    worker = resource["spec"]["workerGroupSpecs"][1]
    if slip == "field":
        worker["maxReplica"] = worker.pop("maxReplicas")
    elif slip == "kind":
        resource["kind"] = "RayClusters"
    elif slip == "replicas":
        worker["maxReplicas"] = "8"
    elif slip == "type":
        resource["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    else:
        resource["spec"]["headGroupSpec"]["serviceType"] = "LoadBalancer"
    with pytest.raises(ValidationError):
        RayCluster.model_validate(resource)


def test_rays_own_autoscaler_reads_the_file(resource: dict[str, Any], spec: RayClusterSpec) -> None:
    groups = {group.group_name: group for group in spec.worker_group_specs}
    node_types = as_read_by_the_autoscaler(resource)["available_node_types"]
    assert node_types.keys() == {"headgroup", *groups}
    assert node_types["driver"]["resources"]["sweep_driver"] == 16
    assert {name: node_types[name]["max_workers"] for name in groups} == {"driver": 2, "gpu-worker": 8}


def test_the_version_is_that_of_the_image(spec: RayClusterSpec, repository: Path) -> None:
    lines = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    (requirement,) = [each for each in map(Requirement, lines) if each.name == "ray"]
    assert spec.ray_version in requirement.specifier
    assert spec.ray_version == ray.__version__


def test_every_container_takes_the_token_from_the_secret(spec: RayClusterSpec) -> None:
    environments = [spec.autoscaler_options.env, *(container.env for container in containers(spec))]
    for environment in environments:
        variables = {variable.name: variable for variable in environment}
        assert variables["RAY_AUTH_MODE"] == EnvVar(name="RAY_AUTH_MODE", value="token")
        token = variables["RAY_AUTH_TOKEN"]
        assert token.value is None
        assert token.value_from is not None
        # The key is the one that KubeRay reads itself.
        reference = token.value_from.secret_key_ref
        assert (reference.name, reference.key) == (spec.auth_options.secret_name, "auth_token")


def test_containers_get_what_they_ask_for_and_no_more(spec: RayClusterSpec) -> None:
    for resources in (spec.autoscaler_options.resources, *(container.resources for container in containers(spec))):
        assert resources.requests == resources.limits
        assert {"cpu", "memory"} <= resources.limits.keys()
    assert sum("nvidia.com/gpu" in container.resources.limits for container in containers(spec)) == 1


def test_containers_have_no_rights_over_their_node(spec: RayClusterSpec) -> None:
    for group in (spec.head_group_spec, *spec.worker_group_specs):
        assert group.template.spec.security_context.run_as_non_root
        assert group.template.spec.security_context.run_as_user == 1000, "the user of the image"
    for container in containers(spec):
        assert not container.security_context.allow_privilege_escalation
        assert container.security_context.capabilities.drop == ["ALL"]


def test_spot_pods_tolerate_the_taint_that_keeps_others_off(spec: RayClusterSpec) -> None:
    for group in (spec.head_group_spec, *spec.worker_group_specs):
        pod = group.template.spec
        tolerated = {toleration.value for toleration in pod.tolerations if toleration.key == "modpo/capacity"}
        spot = pod.node_selector["modpo/capacity"] == "spot"
        assert tolerated == ({"spot"} if spot else set())


def test_pods_are_reached_by_each_other_and_the_jobs_dashboard_by_the_operator(
    resource: dict[str, Any], spec: RayClusterSpec, repository: Path
) -> None:
    is_job = resource["kind"] == "RayJob"
    first, policy = documents(repository, "rayjob" if is_job else "kuberay")
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    labels = policy["spec"]["podSelector"]["matchLabels"]
    for group in (spec.head_group_spec, *spec.worker_group_specs):
        assert labels.items() <= group.template.metadata.labels.items(), "the policy holds for every pod"
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    each_other, *others = policy["spec"]["ingress"]
    assert each_other == {"from": [{"podSelector": {"matchLabels": labels}}]}
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    expected = {
        "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": operator}}],
        "ports": [{"protocol": "TCP", "port": 8265}],
    }
    assert others == ([expected] if is_job else [])
    assert first["metadata"]["name"] == policy["metadata"]["name"]


class TestJob:
    def test_its_cluster_is_that_of_the_other_file(self, job: RayJob, repository: Path) -> None:
        """But for its label, and the dashboard that the operator must reach."""
        expected = documents(repository, "kuberay")[0]["spec"]
        del expected["headGroupSpec"]["rayStartParams"]["dashboard-host"]
        for group in (expected["headGroupSpec"], *expected["workerGroupSpecs"]):
            assert group["template"]["metadata"]["labels"] == {"app": "modpo"}
            group["template"]["metadata"]["labels"] = {"app": "modpo-sweep"}
        assert job.spec.ray_cluster_spec == RayClusterSpec.model_validate(expected)

    def test_it_runs_the_sweep_of_a_file_that_the_image_has(self, job: RayJob, repository: Path) -> None:
        interpreter, module_option, module, path, option, setting = job.spec.entrypoint.split()
        assert (interpreter, module_option, module, option) == ("python", "-m", "ray_jobs.sweep", "--set")
        assert path.startswith(IN_THE_IMAGE)
        config = load_config(repository / path.removeprefix(IN_THE_IMAGE), overrides=[setting])
        mounts = [
            mount.mount_path for container in containers(job.spec.ray_cluster_spec) for mount in container.volume_mounts
        ]
        assert all(config.storage_path.startswith(f"{mount}/") for mount in mounts)

    def test_its_cluster_goes_with_it_and_a_lost_one_is_replaced(self, job: RayJob) -> None:
        assert job.spec.shutdown_after_job_finishes
        assert job.spec.backoff_limit >= 1
