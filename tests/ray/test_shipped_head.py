"""The head as cluster.yaml starts it: which of its ports answer whom."""

from __future__ import annotations

import ipaddress
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import pytest

from ray_jobs.clusters.check import as_prepared_by_ray
from tests.ray.clusters import HEAD, LocalCluster, command_line, no_cluster
from tests.unit.clusters.descriptions import documents

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LISTENS = "0A"
# The page itself, which is the same for everyone, and a sign of life.
OPEN = ("/", "/api/gcs_healthz")
CLOSED = (
    "/api/version",
    "/api/jobs/",
    "/api/cluster_status",
    "/api/v0/nodes",
    "/api/v0/tasks",
    "/api/actors",
    "/api/serve/applications/",
    "/nodes?view=summary",
    "/logs/",
)
# What agents of nodes do for the head: starts of jobs, runtime environments, logs.
AGENTS = ("/api/job_agent/jobs/", "/get_or_create_runtime_env", "/delete_runtime_env_if_possible", "/logs/")


@dataclass(frozen=True)
class Listener:
    """A port that a process of the head listens on."""

    process: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        address = ipaddress.ip_address(self.host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    @property
    def reached_at(self) -> str:
        """As it stands in a URL."""
        address = ipaddress.ip_address(self.host)
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_unspecified:
            return "127.0.0.1"
        return f"[{address}]" if address.version == 6 else str(address)


@pytest.fixture(scope="module")
def head(repository: Path) -> Iterator[LocalCluster]:
    pytest.importorskip("aiohttp", reason="the dashboard needs ray[default]: install modpo[cluster]")
    lines = as_prepared_by_ray(documents(repository, "aws")[0])["head_start_ray_commands"]
    (line,) = [each for each in lines if "ray start" in each]
    # The autoscaler would call AWS.
    line = re.sub(r"--autoscaling-config=\S+", "", line).replace("--object-manager-port=8076", "")
    with no_cluster() as cluster:
        cluster.start_head_as_shipped(line)
        yield cluster


def listeners(cluster: LocalCluster) -> list[Listener]:
    """From /proc: the listening sockets of the head's own processes."""
    owners = {}
    for pid in cluster.pids(HEAD, ""):
        for descriptor in (Path("/proc") / str(pid) / "fd").iterdir():
            target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
            if target.startswith("socket:["):
                owners[target[8:-1]] = command_line(pid).strip()[:80]
    found = []
    for table in ("tcp", "tcp6"):
        for row in (Path("/proc/net") / table).read_text(encoding="utf-8").splitlines()[1:]:
            columns = row.split()
            if columns[3] == LISTENS and columns[9] in owners:
                host, port = columns[1].split(":")
                found.append(Listener(owners[columns[9]], decoded(host), int(port, 16)))
    return found


def decoded(host: str) -> str:
    """An address as the kernel writes it: words of 32 bits, the last byte first."""
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


@dataclass(frozen=True)
class Answer:
    """What a stranger without a token gets; a status of 0 where nothing speaks HTTP."""

    status: int
    text: str = ""

    @property
    def is_metrics(self) -> bool:
        """Whether it is nothing but numbers for Prometheus."""
        return self.status == 200 and (not self.text or self.text.startswith(("# HELP", "# TYPE", "\n")))


def asked(url: str, *, method: str = "GET") -> Answer:
    request = urllib.request.Request(url, method=method, data=b"{}" if method == "POST" else None)
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:
            return Answer(answer.status, answer.read(10000).decode("utf-8", "replace"))
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code)
    except (OSError, ValueError, HTTPException):
        return Answer(0)


def test_the_dashboard_listens_on_loopback_alone_and_tells_strangers_nothing(head: LocalCluster) -> None:
    port = int(head.jobs_address.rpartition(":")[2])
    assert [each.is_loopback for each in listeners(head) if each.port == port] == [True]
    assert {path: asked(head.jobs_address + path).status for path in OPEN} == dict.fromkeys(OPEN, 200)
    assert {path: asked(head.jobs_address + path).status for path in CLOSED} == dict.fromkeys(CLOSED, 401)
    assert asked(head.jobs_address + "/api/jobs/", method="POST").status == 401


def test_no_other_port_of_the_head_answers_a_stranger_with_more_than_metrics(head: LocalCluster) -> None:
    port, token = int(head.jobs_address.rpartition(":")[2]), head.token
    others = [each for each in listeners(head) if each.port != port]
    assert len(others) > 4
    found = {}
    for each in others:
        for path in ("/", "/metrics", *CLOSED, *AGENTS):
            for method in ("GET", "POST"):
                answer = asked(f"http://{each.reached_at}:{each.port}{path}", method=method)
                assert token not in answer.text
                if answer.status:
                    found[each, path, method] = answer
    for (each, path, method), answer in found.items():
        print(f"{answer.status} {method:4} {path:32} {each.host}:{each.port} {each.process}")
    told = {key: answer for key, answer in found.items() if answer.status < 400 and not answer.is_metrics}
    assert told == {}
