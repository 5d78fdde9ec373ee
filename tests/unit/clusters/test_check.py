"""`python -m ray_jobs.clusters.check`: what it refuses, and what it prints where all is well."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.clusters.check import PLACEHOLDER, firewall_commands, problems
from tests.unit.clusters.descriptions import FILES, documents

OWN_NETWORK = "203.0.113.7/32"
EVERYONE = ("0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "2000::/3")


def filled(node: Any) -> Any:
    """The same with every placeholder replaced, as a user leaves it."""
    if isinstance(node, dict):
        return {key: OWN_NETWORK if key == "ssh_from" else filled(value) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value) for value in node]
    return node.replace(PLACEHOLDER, "mine") if isinstance(node, str) else node


@pytest.fixture
def ready(repository: Path) -> Callable[[str], list[dict[str, Any]]]:
    return lambda name: copy.deepcopy([filled(document) for document in documents(repository, name)])


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_filled_in_passes(ready: Callable[[str], list[dict[str, Any]]], name: str) -> None:
    assert list(problems(ready(name))) == []


@pytest.mark.parametrize("name", FILES)
def test_no_file_passes_as_it_is_shipped(repository: Path, name: str) -> None:
    found = list(problems(documents(repository, name)))
    assert any("image: still to be filled in" in problem for problem in found)
    assert ("metadata.ssh_from: still to be filled in" in found) is (name in {"aws", "gcp"})


@pytest.mark.parametrize("name", ["aws", "gcp"])
@pytest.mark.parametrize("network", EVERYONE)
def test_ssh_is_not_opened_to_everyone(ready: Callable[[str], list[dict[str, Any]]], name: str, network: str) -> None:
    files = ready(name)
    files[0]["metadata"]["ssh_from"] = network
    (problem,) = problems(files)
    assert problem.startswith(f"metadata.ssh_from: {network} is too wide")


@pytest.mark.parametrize("value", [None, "", "anywhere", "203.0.113.7/24", "203.0.113.7/33"])
def test_who_may_open_ssh_must_be_said(ready: Callable[[str], list[dict[str, Any]]], value: str | None) -> None:
    files = ready("aws")
    if value is None:
        del files[0]["metadata"]["ssh_from"]
    else:
        files[0]["metadata"]["ssh_from"] = value
    (problem,) = problems(files)
    assert "is no network; say who may open SSH" in problem


@pytest.mark.parametrize(
    ("name", "key"), [("aws", "SecurityGroupIds"), ("gcp", "networkInterfaces")], ids=["aws", "gcp"]
)
def test_a_node_without_a_firewall_of_its_own_is_refused(
    ready: Callable[[str], list[dict[str, Any]]], name: str, key: str
) -> None:
    files = ready(name)
    del files[0]["available_node_types"]["driver"]["node_config"][key]
    assert list(problems(files)) == [
        f"available_node_types.driver: without {key}, Ray lets the whole internet open SSH"
    ]


def test_an_open_dashboard_is_refused_even_where_ray_adds_it(ready: Callable[[str], list[dict[str, Any]]]) -> None:
    files = ready("aws")
    del files[0]["head_start_ray_commands"]
    assert list(problems(files)) == [
        "head_start_ray_commands: without RAY_AUTH_MODE=token, who reaches the Jobs API can run code",
        "head_start_ray_commands: the dashboard must listen on 127.0.0.1",
    ]


def test_what_ray_refuses_is_said_in_a_line(ready: Callable[[str], list[dict[str, Any]]]) -> None:
    files = ready("gcp")
    files[0]["max_worker"] = files[0].pop("max_workers")
    (problem,) = problems(files)
    assert problem.startswith("Ray refuses it: ")
    assert "'max_worker' was unexpected" in problem


def test_a_ray_cluster_that_the_autoscaler_cannot_read_is_refused(
    ready: Callable[[str], list[dict[str, Any]]],
) -> None:
    files = ready("rayjob")
    del files[0]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert list(problems(files)) == ["Ray's autoscaler cannot read it: 'maxReplicas'"]


def test_another_kind_of_file_is_refused() -> None:
    assert list(problems([{"env_vars": {}}])) == ["neither a file for `ray up` nor a RayCluster or RayJob"]


class TestFirewallCommands:
    def test_open_ssh_to_the_files_network_alone(self, ready: Callable[[str], list[dict[str, Any]]]) -> None:
        for name in ("aws", "gcp"):
            ssh, between = firewall_commands(ready(name)[0])
            assert OWN_NETWORK in ssh
            assert "22" in ssh
            assert OWN_NETWORK not in between

    def test_on_aws(self, ready: Callable[[str], list[dict[str, Any]]]) -> None:
        start = "aws ec2 authorize-security-group-ingress --region us-west-2 --group-id sg-mine"
        assert firewall_commands(ready("aws")[0]) == [
            f"{start} --ip-permissions 'IpProtocol=tcp,FromPort=22,ToPort=22,IpRanges=[{{CidrIp={OWN_NETWORK}}}]'",
            f"{start} --protocol all --source-group sg-mine",
        ]

    def test_a_network_of_ipv6(self, ready: Callable[[str], list[dict[str, Any]]]) -> None:
        config = ready("aws")[0]
        config["metadata"]["ssh_from"] = "2001:db8::/48"
        assert "Ipv6Ranges=[{CidrIpv6=2001:db8::/48}]" in firewall_commands(config)[0]


def test_the_command_ends_with_2_and_every_problem_on_a_line(repository: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs.clusters.check", "cluster.yaml"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "cluster.yaml: metadata.ssh_from: still to be filled in"
    assert all(line.startswith("cluster.yaml: ") for line in lines)
