"""The four cluster files in one form, whatever the cloud: what their tests hold in common is said of this form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.clusters.check import DASHBOARD, as_prepared_by_ray, as_read_by_the_autoscaler

FILES = {
    "aws": "cluster.yaml",
    "gcp": "ray_jobs/clusters/gcp.yaml",
    "kuberay": "ray_jobs/clusters/kuberay.yaml",
    "rayjob": "ray_jobs/clusters/rayjob.yaml",
}
# Of the machines that the files name: GiB of memory, and what Ray finds on those whose `resources` leave it out.
MEMORY_GIB = {"m6i.xlarge": 16, "r6i.xlarge": 32, "g6e.xlarge": 32}
MEMORY_GIB |= {"n2-standard-4": 16, "n2-highmem-4": 32, "g2-standard-8": 32}
FOUND_BY_RAY = {"g6e.xlarge": {"CPU": 4, "GPU": 1}}
RUNS = "/mnt/modpo"


@dataclass(frozen=True)
class Group:
    """Nodes of one kind: what Ray schedules on each, how many there may be, how they are bought and what they run."""

    resources: dict[str, int]
    minimum: int
    maximum: int
    spot: bool
    memory_gib: float
    image: str
    storage: bool
    may_call_the_cloud: bool


@dataclass(frozen=True)
class Cluster:
    """One file: its groups, and who gets in.

    Attributes:
        authenticated: whether each process that joins the cluster is told to ask for the token.
        dashboard_hosts: addresses that the dashboard is told to listen on.
        job_environment: variables that the file itself gives its job; none where the job brings its own.
    """

    name: str
    text: str
    head: Group
    workers: dict[str, Group]
    idle_seconds: float
    authenticated: tuple[bool, ...]
    dashboard_hosts: tuple[str, ...]
    job_environment: dict[str, str] | None

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.head, *self.workers.values())


def documents(repository: Path, name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((repository / FILES[name]).read_text()))


def read_cluster(repository: Path, name: str) -> Cluster:
    text = (repository / FILES[name]).read_text()
    first = documents(repository, name)[0]
    return _launched(name, text, first) if "provider" in first else _in_kubernetes(name, text, first)


def _launched(name: str, text: str, written: dict[str, Any]) -> Cluster:
    config = as_prepared_by_ray(written)
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[key]
        if "ray start" in command
    ]
    groups = {key: _machines(config, node_type) for key, node_type in config["available_node_types"].items()}
    return Cluster(
        name=name,
        text=text,
        head=groups.pop(config["head_node_type"]),
        workers=groups,
        idle_seconds=60 * config["idle_timeout_minutes"],
        authenticated=tuple(
            bool(re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*; *ray start", each)) for each in starts
        ),
        dashboard_hosts=tuple(host for command in starts for host in DASHBOARD.findall(command)),
        job_environment=None,
    )


def _machines(config: dict[str, Any], node_type: dict[str, Any]) -> Group:
    node = node_type["node_config"]
    machine = node.get("InstanceType") or node["machineType"]
    market = (
        node.get("InstanceMarketOptions", {}).get("MarketType"),
        node.get("scheduling", {}).get("provisioningModel"),
    )
    mounted = any("mount -t nfs" in command and RUNS in command for command in config["initialization_commands"])
    return Group(
        resources=node_type["resources"] or FOUND_BY_RAY[machine],
        minimum=node_type["min_workers"],
        maximum=node_type["max_workers"],
        spot=market in {("spot", None), (None, "SPOT")},
        memory_gib=MEMORY_GIB[machine],
        image=config["docker"]["image"],
        storage=mounted and f"-v {RUNS}:{RUNS}" in config["docker"]["run_options"],
        may_call_the_cloud="IamInstanceProfile" in node or "serviceAccounts" in node,
    )


def _in_kubernetes(name: str, text: str, resource: dict[str, Any]) -> Cluster:
    job = resource["spec"] if resource["kind"] == "RayJob" else None
    spec = job["rayClusterSpec"] if job else resource["spec"]
    autoscaling = as_read_by_the_autoscaler(resource)
    nodes = autoscaling["available_node_types"]
    written = {"headgroup": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    groups = {key: _pods(nodes[key], group) for key, group in written.items()}
    environments = [spec["autoscalerOptions"]["env"], *(container_of(group)["env"] for group in written.values())]
    return Cluster(
        name=name,
        text=text,
        head=groups.pop("headgroup"),
        workers=groups,
        idle_seconds=60 * autoscaling["idle_timeout_minutes"],
        authenticated=(
            spec["authOptions"]["mode"] == "token",
            *({"name": "RAY_AUTH_MODE", "value": "token"} in variables for variables in environments),
        ),
        dashboard_hosts=tuple(
            group["rayStartParams"]["dashboard-host"]
            for group in written.values()
            if "dashboard-host" in group["rayStartParams"]
        ),
        job_environment=yaml.safe_load(job["runtimeEnvYAML"])["env_vars"] if job else None,
    )


def container_of(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    return container


def _pods(node: dict[str, Any], group: dict[str, Any]) -> Group:
    pod, container = group["template"]["spec"], container_of(group)
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    return Group(
        resources=node["resources"],
        minimum=node["min_workers"],
        maximum=node["max_workers"],
        spot={"on-demand": False, "spot": True}[pod["nodeSelector"]["modpo/capacity"]],
        memory_gib=float(container["resources"]["limits"]["memory"].removesuffix("Gi")),
        image=container["image"],
        storage=any(mount["mountPath"] == RUNS and mount["name"] in claims for mount in container["volumeMounts"]),
        may_call_the_cloud=pod.get("automountServiceAccountToken", True),
    )


def values_of(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with the name it stands under."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from values_of(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value, where)
    else:
        yield where, node
