"""The connection to a cluster: the one that RAY_ADDRESS names, or a private one on this machine that ends with us."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modpo.errors import Problem, SetupError
from modpo.orchestration.autoscaler import node_groups
from modpo.orchestration.desk import Desk
from modpo.orchestration.gpus import ACCELERATOR_LABEL, GPU_GIB
from modpo.orchestration.machine import LOCAL_DRIVERS
from modpo.orchestration.resources import DRIVER_RESOURCE, NodeShape
from modpo.telemetry import QUIET_ENVIRONMENT

NAMESPACE = "modpo"
HEAD_RESOURCE = "node:__internal_head__"

# Ray reads these when its processes start. Polling every 2 s, Ray's default, would cost 2 s per report; cloud nodes
# take minutes to boot, and the default start timeout of 60 s would drop and retry their placement groups for ever.
CLUSTER_ENVIRONMENT = {
    **QUIET_ENVIRONMENT,
    "OMP_NUM_THREADS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}


STARTING_PROCESSES = 16


@contextmanager
def connected() -> Iterator[None]:
    """A Ray connection for the length of a block.

    Raises:
        SetupError: RAY_ADDRESS names a cluster that does not answer.
    """
    for name, value in CLUSTER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_ADDRESS"):
        _connect()
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Sockets live below this folder, and their paths may not be longer than 107 bytes: no place for the run's own.
    temporary = Path(tempfile.mkdtemp(prefix="modpo-ray-"))
    try:
        with _private_environment(temporary):
            ray.init(
                namespace=NAMESPACE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(temporary),
                # Drivers wait most of the time: they get a resource of their own and leave the cores to workers.
                resources={DRIVER_RESOURCE: LOCAL_DRIVERS},
            )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def node_shapes() -> tuple[NodeShape, ...]:
    """What the live nodes have, or what an autoscaler may add up to where one is at work."""
    live, groups = [node for node in ray.nodes() if node["Alive"]], node_groups()
    if groups:
        # Nodes of a group come and go with the work; the head is the only one that is surely there beside them.
        live = [node for node in live if HEAD_RESOURCE in node["Resources"]]
    possible = (_shape(group.resources, group.labels, exists=False) for group in groups for _ in range(group.max_count))
    return (*(_shape(node["Resources"], node["Labels"]) for node in live), *possible)


def _shape(resources: dict[str, float], labels: dict[str, str], *, exists: bool = True) -> NodeShape:
    """A node by its resources and labels, as Ray names them; one that is yet to come will get more labels."""
    accelerator = next((name.split(":")[1] for name in resources if name.startswith("accelerator_type:")), None)
    known = {ACCELERATOR_LABEL: accelerator} | labels if accelerator else labels
    return NodeShape(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        drivers=resources.get(DRIVER_RESOURCE, 0.0),
        labels=known,
        has_more_labels=not exists,
        gpu_gib=GPU_GIB.get(accelerator or ""),
        # Ray offers its share of a node's memory.
        memory_gib=resources["memory"] / 2**30 if "memory" in resources else None,
    )


def start_desk(name: str, *, max_slots: int, max_failures: int) -> Any:
    """Starts the desk's actor, which workers find by its name; it ends with the handle that is returned."""
    actor = ray.remote(num_cpus=0, max_concurrency=1000)(Desk)
    # Ray puts an actor that takes no resources on any node, also on one that may be taken away at any time.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return actor.options(name=name, namespace=NAMESPACE, scheduling_strategy=here).remote(max_slots, max_failures)


@contextmanager
def _private_environment(temporary: Path) -> Iterator[None]:
    """What only a private cluster's processes get: a token that is on no disk, and the working directory's modules."""
    # Ray switches token mode on by itself, and with a token at hand writes none to the home folder. It keeps the first
    # token of a process, so a second private cluster of this process must have the same.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    inherited = {
        "TORCH_EXTENSIONS_DIR": str(temporary / "extensions"),
        # On a machine of few cores Ray would warn that the drivers' processes are many.
        "RAY_worker_maximum_startup_concurrency": str(STARTING_PROCESSES),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
    }
    before = {name: os.environ.get(name) for name in inherited}
    os.environ |= inherited
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _connect() -> None:
    """Joins a running cluster, whose processes get our environment beside the job's own."""
    # Ray refuses a variable that the job's runtime_env names too.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {}).get("env_vars", {})
    environment = {name: os.environ[name] for name in CLUSTER_ENVIRONMENT if name not in job}
    try:
        ray.init(
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": environment},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SetupError(
            Problem(
                code="MS-411",
                what="the Ray cluster does not answer",
                where="RAY_ADDRESS",
                got=" ".join(str(error).split())[:200],
                wanted="a running cluster of the same Ray version",
                remedy="check the address and its token, or unset RAY_ADDRESS to run on this machine",
            )
        ) from error
