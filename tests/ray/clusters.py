"""Real clusters of several nodes on this machine, whose nodes can be lost like any other's.

Every node is a `ray start --block` with a folder, a name and a session of processes of its own: a node is killed by the
ids of all that belong to it, as a machine goes. Nothing here looks at processes of any other cluster.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

HEAD = "head"
# In the environment of a node's processes. Those that rename themselves lose it, and jobs leave the node's session: a
# process is known by the one or the other.
MARK = "MODPO_TEST_NODE"
SESSION = 3
"""Which field of /proc/PID/stat behind the name; its first is the state."""
PATIENCE_S = 120.0
COMMAND_S = 600.0
POLL_S = 0.25
OBJECT_STORE_BYTES = 100 * 2**20

# A node that does not answer is dead after 3 s, where Ray's own settings take half a minute.
FAST_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class LocalCluster:
    """A head node and as many others as are added, in token mode, on the loopback network.

    Attributes:
        folder: the nodes' temporary folders, named as they are, and the file with the token.
        address: what RAY_ADDRESS is for `modpo run`.
        jobs_address: what `--address` is for `modpo submit`.
        environment: of commands that are to reach the cluster; has both addresses and the place of the token.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self._gcs_port, self._dashboard_port = free_port(), free_port()
        self._nodes: dict[str, _Node] = {}
        self._started: list[str] = []
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        self.address = f"127.0.0.1:{self._gcs_port}"
        self.jobs_address = f"http://127.0.0.1:{self._dashboard_port}"
        common = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        common |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_maximum_startup_concurrency": "16",  # as in the image of the nodes
            "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        }
        self._node_environment = common | FAST_HEALTH_CHECKS | dict(settings)
        self.environment = common | {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.jobs_address,
            "MODPO_DEBUG": "1",
        }

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text(encoding="utf-8")

    def start_head(
        self,
        *arguments: str,
        cpus: float = 0,
        resources: Mapping[str, float] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the head, or another one in the place of a lost one: same addresses, nothing else that is left.

        Args:
            arguments: more of `ray start`.
            resources: custom ones; without them as many drivers of trials as there may be.
            settings: more of its environment.
        """
        self._start_node(
            HEAD,
            "--head",
            f"--port={self._gcs_port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard_port}",
            f"--ray-client-server-port={free_port()}",
            *arguments,
            ip="127.0.0.1",
            cpus=cpus,
            resources={"sweep_driver": 10} if resources is None else resources,
            settings=settings or {},
        )
        self.wait_until(self._is_up, "the head's Jobs API never came up")

    def start_head_as_shipped(self, line: str) -> None:
        """Starts the head by the shell line of a cluster file; its ports and folder are this cluster's own."""
        own = ["--block", *self._own_options(HEAD), f"--ray-client-server-port={free_port()}"]
        line = line.replace("--port=6379", f"--port={self._gcs_port}").replace("8265", str(self._dashboard_port))
        line = line.replace("ray start", f"exec ray start {shlex.join(own)}")
        # The line itself says that a token is asked for.
        environment = {name: value for name, value in self._node_environment.items() if name != "RAY_AUTH_MODE"}
        self._launch(HEAD, ["bash", "-c", line], environment)
        self.wait_until(self._is_up, "the head's Jobs API never came up")

    def add_node(
        self,
        name: str,
        *,
        cpus: float,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        """Starts a node; several start side by side where only the last one is waited for."""
        more = [f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else []
        # Each has an address of its own: by it Ray finds the node that a driver belongs to, and Train the ranks' hosts.
        ip = f"127.0.0.{len(self._started) + 1}"
        self._start_node(
            name, f"--address={self.address}", *more, ip=ip, cpus=cpus, resources=resources or {}, settings={}
        )
        if wait:
            self.wait_for_nodes(name)

    def kill_node(self, name: str) -> None:
        """SIGKILL to everything of a node at once, workers and jobs included; the cluster finds out by itself."""
        node = self._nodes.pop(name)
        while found := node.pids():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        node.starter.wait()

    def drain_node(self, name: str, *, deadline_s: int) -> None:
        """The notice that a spot node gets: no new work goes there, and whoever asks learns of the deadline."""
        self.run(
            _tool("ray"),
            "drain-node",
            f"--address={self.address}",
            f"--node-id={self.alive()[name]['node_id']}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=taken back",
            f"--deadline-remaining-seconds={deadline_s}",
        ).check_returncode()

    def nodes(self) -> list[dict[str, Any]]:
        """What Ray's state API says of each node that the cluster believes to be alive."""
        found = self.get("/api/v0/nodes?detail=1&limit=1000")["data"]["result"]["result"]
        return [node for node in found if node["state"] == "ALIVE"]

    def alive(self) -> dict[str, dict[str, Any]]:
        """The same by the nodes' names."""
        return {node["node_name"]: node for node in self.nodes()}

    def wait_for_nodes(self, *names: str) -> None:
        self.wait_until(lambda: set(names) <= set(self.alive()), f"{names} never joined the cluster")

    def wait_until(self, condition: Callable[[], bool], failure: str, *, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, failure
            time.sleep(POLL_S)

    def pids(self, node: str, words: str) -> list[int]:
        """Processes of a node that have this in their command line, such as `ray::RayTrainWorker`."""
        return [pid for pid in self._nodes[node].pids() if words in command_line(pid)]

    def get(self, path: str) -> Any:
        """What the dashboard tells whoever has the token."""
        request = urllib.request.Request(
            f"{self.jobs_address}{path}", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def start(self, *command: str | Path, **more: str) -> subprocess.Popen[str]:
        """A command in the background that reaches the cluster; its output is one stream. The caller ends it."""
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=REPOSITORY,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """A command that reaches the cluster, to its end."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=REPOSITORY,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def modpo(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """From the checkout, whose package travels with a job."""
        return self.run(sys.executable, "-m", "modpo", *arguments, **more)

    def start_modpo(self, *arguments: str | Path, **more: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-m", "modpo", *arguments, **more)

    def end(self) -> None:
        """Kills what is left of all nodes."""
        for name in list(self._nodes):
            self.kill_node(name)

    def _start_node(
        self,
        name: str,
        *arguments: str,
        ip: str,
        cpus: float,
        resources: Mapping[str, float],
        settings: Mapping[str, str],
    ) -> None:
        command = [_tool("ray"), "start", "--block", f"--node-ip-address={ip}", f"--num-cpus={cpus:g}", *arguments]
        command += [f"--resources={json.dumps(resources)}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        self._launch(name, [*command, *self._own_options(name)], self._node_environment | dict(settings))

    def _own_options(self, name: str) -> list[str]:
        # Socket paths below this folder may not be longer than 107 bytes. The agents of all nodes would ask for one
        # port.
        folder = self.folder / f"{len(self._started) + 1}-{name}"
        return ["--dashboard-agent-listen-port=0", f"--temp-dir={folder}", f"--node-name={name}"]

    def _launch(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        assert name not in self._nodes, f"{name} is there already"
        mark = f"{name}-{secrets.token_hex(8)}"
        with (self.folder / f"{name}.log").open("ab") as log:
            starter = subprocess.Popen(
                command,
                env={**environment, MARK: mark},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(name)
        self._nodes[name] = _Node(mark, starter)

    def _is_up(self) -> bool:
        try:
            self.get("/api/jobs/")
            return HEAD in self.alive()
        except urllib.error.HTTPError as refused:
            refused.close()
        except OSError:
            pass
        return False


@contextmanager
def no_cluster(settings: Mapping[str, str] | None = None) -> Iterator[LocalCluster]:
    """A cluster whose head is still to be started; all of it ends with the block.

    Args:
        settings: more of the environment of all nodes.
    """
    folder = Path(tempfile.mkdtemp(prefix="modpo-"))
    cluster = LocalCluster(folder, settings or {})
    try:
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def local_cluster(*, cpus: float = 0, settings: Mapping[str, str] | None = None) -> Iterator[LocalCluster]:
    """A cluster with its head alone, for the length of a block.

    Args:
        cpus: of the head; none, as on the clusters that this project ships.
        settings: more of the environment of all nodes.
    """
    with no_cluster(settings) as cluster:
        cluster.start_head(cpus=cpus)
        yield cluster


@dataclass(frozen=True)
class _Node:
    """A node as its starter knows it."""

    mark: str
    starter: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        """All its living processes."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                # The name, in parentheses, may have blanks.
                status = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if status[0] == "Z":
                    continue
                of_session = int(status[SESSION]) == self.starter.pid
                if of_session or wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found


def command_line(pid: int) -> str:
    """With blanks between the arguments; empty when the process is gone."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)
