"""Check a cluster file before anything starts: `python -m ray_jobs.clusters.check FILE`.

Says what Ray itself would find wrong, and what it would not: values that are still to be filled in, and ways by which
others could get in. Of a file for `ray up` it then prints the commands that open SSH to the network `metadata.ssh_from`
and to no other. Calls no cloud. The exit status is 2 where something is wrong.
"""

from __future__ import annotations

import copy
import ipaddress
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

PLACEHOLDER = "REPLACE-ME"
LOOPBACK = "127.0.0.1"
DASHBOARD = re.compile(r"--dashboard-host[= ]+(\S+)")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
# The shortest prefixes that are still somebody's own network. Half the internet is no network to open SSH to.
SHORTEST_PREFIX = {4: 16, 6: 32}
# Where a node type names the firewall that it stands behind. Without it Ray makes or takes one that opens SSH to all.
FIREWALL = {"aws": "SecurityGroupIds", "gcp": "networkInterfaces"}
KINDS = ("RayCluster", "RayJob")


def as_prepared_by_ray(config: dict[str, Any]) -> dict[str, Any]:
    """A file for `ray up` as `ray up` sees it before it calls the cloud: Ray's defaults merged in, its schema held.

    Raises:
        ValidationError: a key or value that the schema does not have.
        ValueError: node types that do not go together.
    """
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    prepared.setdefault("cluster_synced_files", [])
    validate_config(prepared)
    return prepared


def as_read_by_the_autoscaler(resource: dict[str, Any]) -> dict[str, Any]:
    """What Ray's autoscaler makes of a RayCluster, or of the cluster of a RayJob, inside Kubernetes.

    Raises:
        KeyError: a required part is missing.
        ValueError: resources that cannot be read.
    """
    spec = resource["spec"]["rayClusterSpec"] if resource["kind"] == "RayJob" else resource["spec"]
    metadata = {"namespace": "default", **resource["metadata"]}
    autoscaling: dict[str, Any] = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": spec})
    return autoscaling


def problems(documents: list[dict[str, Any]]) -> Iterator[str]:
    """Everything that is wrong with the documents of one file."""
    for document in documents:
        yield from (f"{where}: still to be filled in" for where in _placeholders(document))
        if "provider" in document:
            yield from _ssh_problems(document)
            yield from _launcher_problems(document)
        elif document.get("kind") in KINDS:
            try:
                as_read_by_the_autoscaler(document)
            except (KeyError, ValueError, ValidationError) as error:
                yield f"Ray's autoscaler cannot read it: {_first_line(error)}"
    if not any("provider" in document or document.get("kind") in KINDS for document in documents):
        yield f"neither a file for `ray up` nor a {' or '.join(KINDS)}"


def firewall_commands(config: dict[str, Any]) -> list[str]:
    """What opens SSH to the file's own network, and everything between the nodes; to be run once, by hand."""
    network, provider = config["metadata"]["ssh_from"], config["provider"]
    head = config["available_node_types"][config["head_node_type"]]["node_config"]
    if provider["type"] == "aws":
        group = head["SecurityGroupIds"][0]
        allow = f"aws ec2 authorize-security-group-ingress --region {provider['region']} --group-id {group}"
        field = "CidrIp" if ipaddress.ip_network(network).version == 4 else "CidrIpv6"
        ranges = "IpRanges" if field == "CidrIp" else "Ipv6Ranges"
        return [
            f"{allow} --ip-permissions 'IpProtocol=tcp,FromPort=22,ToPort=22,{ranges}=[{{{field}={network}}}]'",
            f"{allow} --protocol all --source-group {group}",
        ]
    tag, subnetwork = head["tags"]["items"][0], head["networkInterfaces"][0]["subnetwork"]
    create = f"gcloud compute firewall-rules create --project {provider['project_id']}"
    target = f"--network NETWORK-OF-{subnetwork.rpartition('/')[2]} --target-tags {tag}"
    return [
        f"{create} {tag}-ssh {target} --allow tcp:22 --source-ranges {network}",
        f"{create} {tag}-nodes {target} --allow all --source-tags {tag}",
    ]


def main() -> None:
    logging.getLogger("ray").setLevel(logging.WARNING)
    path = Path(sys.argv[1])
    documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
    found = list(problems(documents))
    for problem in found:
        print(f"{path}: {problem}", file=sys.stderr)
    if found:
        sys.exit(2)
    print(f"{path}: fine")
    for command in (command for document in documents if "provider" in document for command in _advised(document)):
        print(command)


def _advised(config: dict[str, Any]) -> list[str]:
    return ["# once, if the firewall does not say so already:", *firewall_commands(config)]


def _placeholders(node: Any, where: str = "") -> Iterator[str]:
    """Paths of the values that hold a placeholder; one that YAML anchors repeat is given as often as it is used."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _placeholders(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _placeholders(value, f"{where}.{index}")
    elif isinstance(node, str) and PLACEHOLDER in node:
        yield where


def _ssh_problems(config: dict[str, Any]) -> Iterator[str]:
    text = str((config.get("metadata") or {}).get("ssh_from", ""))
    if PLACEHOLDER in text:
        return
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        yield f"metadata.ssh_from: {text!r} is no network; say who may open SSH, such as 203.0.113.7/32"
        return
    shortest = SHORTEST_PREFIX[network.version]
    if network.prefixlen < shortest:
        yield f"metadata.ssh_from: {text} is too wide; a network of your own has a prefix of at least /{shortest}"


def _launcher_problems(config: dict[str, Any]) -> Iterator[str]:
    try:
        prepared = as_prepared_by_ray(config)
    except (ValueError, ValidationError) as error:
        yield f"Ray refuses it: {_first_line(error)}"
        return
    firewall = FIREWALL.get(prepared["provider"]["type"])
    for name, node_type in prepared["available_node_types"].items():
        if firewall and not node_type["node_config"].get(firewall):
            yield f"available_node_types.{name}: without {firewall}, Ray lets the whole internet open SSH"
    for key in START_COMMANDS:
        for command in (command for command in prepared[key] if "ray start" in command):
            if "RAY_AUTH_MODE=token" not in command:
                yield f"{key}: without RAY_AUTH_MODE=token, who reaches the Jobs API can run code"
            if set(DASHBOARD.findall(command)) - {LOOPBACK}:
                yield f"{key}: the dashboard must listen on {LOOPBACK}"


def _first_line(error: Exception) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]


if __name__ == "__main__":
    main()
