"""The files for `ray up`: what Ray's schema says of them, and what its defaults would open."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.docker import docker_start_cmds

from ray_jobs.clusters.check import DASHBOARD, LOOPBACK, as_prepared_by_ray
from tests.unit.clusters.descriptions import documents
from tests.unit.clusters.image import environment, instructions


@pytest.fixture
def aws(repository: Path) -> dict[str, Any]:
    return documents(repository, "aws")[0]


@pytest.fixture
def gcp(repository: Path) -> dict[str, Any]:
    return documents(repository, "gcp")[0]


@pytest.fixture(params=["aws", "gcp"])
def config(repository: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    return documents(repository, request.param)[0]


def node_configs(config: dict[str, Any]) -> list[dict[str, Any]]:
    found = [node_type["node_config"] for node_type in config["available_node_types"].values()]
    assert len(found) == 3
    return found


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    prepared = as_prepared_by_ray(config)
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("section", ["top", "node type", "resource", "docker", "command"])
def test_ray_refuses_a_slip(config: dict[str, Any], section: str) -> None:
    if section == "top":
        config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")
    elif section == "node type":
        config["available_node_types"]["gpu_worker"]["max_worker"] = 1
    elif section == "resource":
        config["available_node_types"]["driver"]["resources"]["sweep_driver"] = 0.5
    elif section == "docker":
        config["docker"]["run_option"] = ["--privileged"]
    else:
        config["initialization_commands"] = "sudo mkdir -p /mnt/modpo"
    with pytest.raises(jsonschema.ValidationError):
        as_prepared_by_ray(config)


def test_ray_refuses_an_unknown_head_node_type(config: dict[str, Any]) -> None:
    config["head_node_type"] = "haed"
    with pytest.raises(ValueError, match="must be one of `available_node_types`"):
        as_prepared_by_ray(config)


def test_looking_at_a_file_does_not_change_it(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    as_prepared_by_ray(config)
    assert config == before


def test_without_our_start_command_ray_would_open_the_dashboard(config: dict[str, Any]) -> None:
    # Why the files state the command at all; once Ray's default is closed, this test says so.
    del config["head_start_ray_commands"]
    assert DASHBOARD.findall(" ".join(as_prepared_by_ray(config)["head_start_ray_commands"])) == ["0.0.0.0"]


def test_rays_defaults_add_no_command_that_we_did_not_see(config: dict[str, Any]) -> None:
    prepared = as_prepared_by_ray(config)
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert prepared[commands] == config["setup_commands"]
    heads = [command for command in prepared["head_start_ray_commands"] if "--head" in command]
    assert DASHBOARD.findall(" ".join(heads)) == [LOOPBACK]


def test_token_reaches_every_node_as_a_file_of_its_owner(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert config["setup_commands"] == ["chmod 600 ~/.ray/auth_token"]


def test_the_container_can_read_what_the_nodes_user_is_given(config: dict[str, Any], repository: Path) -> None:
    (user,) = [rest for word, rest in instructions(repository) if word == "USER"]
    number = user.partition(":")[0]
    assert config["initialization_commands"][0] == f'test "$(id -u)" = {number}'
    assert f"-o {number} -g {number} -m 700" in config["initialization_commands"][-1]


def test_ray_mounts_token_and_runs_into_the_container(config: dict[str, Any], repository: Path) -> None:
    home, docker = environment(repository)["HOME"], config["docker"]
    command = docker_start_cmds(
        config["auth"]["ssh_user"],
        docker["image"],
        config["file_mounts"],
        docker["container_name"],
        docker["run_options"],
        config["cluster_name"],
        home,
        "docker",
    )
    mounts = re.findall(r"-v (\S+):(\S+)", command)
    assert [inside for _, inside in mounts] == [f"{home}/.ray/auth_token", "/mnt/modpo"]
    # Loopback of the container is that of the node: the tunnel ends there.
    assert "--net=host" in command


def test_stopped_nodes_do_not_stay_and_cost_their_disk(config: dict[str, Any]) -> None:
    assert config["provider"]["cache_stopped_nodes"] is False


def test_containers_get_no_more_rights_than_they_need(config: dict[str, Any]) -> None:
    options = " ".join(config["docker"]["run_options"])
    assert "--cap-drop=ALL" in options
    assert "--security-opt=no-new-privileges" in options
    assert "privileged" not in options.replace("no-new-privileges", "")


class TestAws:
    def test_every_node_has_a_named_security_group_and_version_2_metadata(self, aws: dict[str, Any]) -> None:
        # A group that Ray makes opens SSH to every address, and `provider.security_group` cannot take that back.
        assert "security_group" not in aws["provider"]
        for node in node_configs(aws):
            assert node["SecurityGroupIds"] == aws["metadata"]["security_groups"]
            assert node["MetadataOptions"]["HttpTokens"] == "required"
            assert node["MetadataOptions"]["HttpPutResponseHopLimit"] == 1

    def test_disks_are_encrypted_and_go_with_their_node(self, aws: dict[str, Any]) -> None:
        for node in node_configs(aws):
            (disk,) = node["BlockDeviceMappings"]
            assert disk["Ebs"]["Encrypted"] is disk["Ebs"]["DeleteOnTermination"] is True

    def test_ray_would_open_ssh_to_every_address(self) -> None:
        # Why the group is named; once Ray asks who may come in, this test says so.
        boto_config = pytest.importorskip("ray.autoscaler._private.aws.config", reason="needs boto3")
        ranges = [rule["IpRanges"] for rule in boto_config._create_default_ssh_inbound_rules()]
        assert ranges == [[{"CidrIp": "0.0.0.0/0"}]]


class TestGcp:
    def test_every_node_stands_in_a_named_network_behind_a_tagged_firewall(self, gcp: dict[str, Any]) -> None:
        for node in node_configs(gcp):
            assert all("subnetworks/" in interface["subnetwork"] for interface in node["networkInterfaces"])
            assert node["tags"] == {"items": ["modpo"]}

    def test_only_the_files_own_key_opens_a_node(self, gcp: dict[str, Any]) -> None:
        # Ray would otherwise put a key into the metadata of the whole project.
        assert gcp["auth"]["ssh_private_key"]
        for node in node_configs(gcp):
            items = {item["key"]: item["value"] for item in node["metadata"]["items"]}
            assert items["block-project-ssh-keys"] == "TRUE"
            assert items["ssh-keys"].startswith(gcp["auth"]["ssh_user"] + ":")

    def test_disks_and_preempted_machines_go(self, gcp: dict[str, Any]) -> None:
        assert all(disk["autoDelete"] for node in node_configs(gcp) for disk in node["disks"])
        worker = gcp["available_node_types"]["gpu_worker"]["node_config"]
        assert worker["scheduling"]["instanceTerminationAction"] == "DELETE"
        assert worker["scheduling"]["automaticRestart"] is False

    def test_every_node_says_what_it_has(self, gcp: dict[str, Any]) -> None:
        # On AWS Ray looks it up; on Google Cloud an empty entry is a node without processors that nothing asks for.
        assert all(node_type["resources"] for node_type in gcp["available_node_types"].values())
