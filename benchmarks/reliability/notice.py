"""Nodes that are taken away while a point trains on them, one with notice and one without: how many steps that costs.

A sweep of two points with the base run's data and workers, long enough for a notice to be given in the middle of each,
on a real cluster of a head and nodes that have room for the workers of one point.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.reliability.base import SAVE_STEPS, Command, Run, base_sweep, write_base_world
from benchmarks.reliability.disturbed import PATIENCE_S, Disturbed, resumptions
from benchmarks.reliability.figures import Figure, Measured, Options
from benchmarks.reliability.kills import MOST_LOST_STEPS
from benchmarks.reliability.processes import WORKER_TITLE, frozen
from tests.ray.clusters import LocalCluster, local_cluster

STAGE = 1
STEPS = 200
TAKEN_AT = 12
"""From which step on: not one that saves."""
NOTICE_S = 60
POLL_S = 0.01


@dataclass(frozen=True)
class Taken:
    """A node that was taken while it trained a point, and how many steps were taken twice for it."""

    trial_id: str
    with_notice: bool
    lost: int


def measure(options: Options) -> Measured:
    """Takes a node with notice and one without out of the same sweep, and compares its weights with a quiet one's."""
    world = options.folder / "world"
    write_base_world(world)
    quiet, taken_from = (_new_run(options.folder / name, world) for name in ("quiet", "taken"))
    command = Command(quiet.folder, 1)
    try:
        if command.wait(PATIENCE_S) != 0:
            raise RuntimeError(f"the undisturbed run did not end well:\n{command.said()}")
    finally:
        command.end()
    with local_cluster() as cluster:
        cluster.add_node("node-0", cpus=1)
        rows = _take_nodes(cluster, taken_from, options)
    with_notice, without = rows
    differing = Disturbed(taken_from, [], [], 1).differing_weights(quiet)
    return Measured(
        {
            "lost steps with notice": Figure(with_notice.lost, 0, "at most"),
            "lost steps of a lost node without notice": Figure(without.lost, MOST_LOST_STEPS, "at most"),
            "points with other weights after lost nodes": Figure(len(differing), 0, "at most"),
        },
        [{"point": row.trial_id, "with_notice": row.with_notice, "lost_steps": row.lost} for row in rows],
    )


def _new_run(folder: Path, world: Path) -> Run:
    raw = base_sweep(world, stage=STAGE)
    raw["training"] |= {"max_steps": STEPS}
    raw["sweep"] = {"weights": {"lattice": 1}}
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return Run(folder)


def _take_nodes(cluster: LocalCluster, run: Run, options: Options) -> list[Taken]:
    storage = f"storage_path={run.path.parent}"
    driver = cluster.start_modpo("run", run.folder / "sweep.yaml", "--set", storage)
    try:
        _wait(driver, (run.path / "run.json").is_file)
        taken = []
        for number, trial_id in enumerate(run.trial_ids):
            taken.append(_take_from(cluster, driver, run, trial_id, number))
            options.say(f"node taken {'with' if taken[-1].with_notice else 'without'} notice: {taken[-1].lost} lost")
        output, _ = driver.communicate(timeout=PATIENCE_S)
        if driver.returncode != 0:
            raise RuntimeError(f"the run ended with {driver.returncode}:\n{output[-2000:]}")
        return taken
    finally:
        driver.kill()
        driver.wait()


def _take_from(cluster: LocalCluster, driver: subprocess.Popen[str], run: Run, trial_id: str, number: int) -> Taken:
    """Takes the node while it trains this point: of the first one with notice."""
    with_notice = number == 0
    _wait(driver, lambda: _is_between_saves(run, trial_id))
    _take_node(cluster, number, with_notice=with_notice)
    _wait(driver, lambda: run.is_trained(trial_id))
    if run.record(trial_id)["attempts"] < 2:
        raise RuntimeError(f"{trial_id} did not move: nothing was measured")
    return Taken(trial_id, with_notice, max(resumptions(run, trial_id), default=0))


def _take_node(cluster: LocalCluster, number: int, *, with_notice: bool) -> None:
    """Gives notice, waits until the workers have left, and kills; or kills at once. Another node comes instead."""
    node, workers = f"node-{number}", cluster.pids(f"node-{number}", WORKER_TITLE)
    if with_notice:
        # A notice takes seconds to give, and the training is over in few.
        with frozen(workers):
            cluster.add_node(f"node-{number + 1}", cpus=1)
            cluster.drain_node(node, deadline_s=NOTICE_S)
        cluster.wait_until(lambda: not set(workers) & set(cluster.pids(node, WORKER_TITLE)), "the workers never left")
        cluster.kill_node(node)
    else:
        cluster.kill_node(node)
        cluster.add_node(f"node-{number + 1}", cpus=1)


def _is_between_saves(run: Run, trial_id: str) -> bool:
    rows = run.losses(trial_id)
    return bool(rows) and rows[-1][0] >= TAKEN_AT and rows[-1][0] % SAVE_STEPS in (2, 3)


def _wait(driver: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Until something is so.

    Raises:
        RuntimeError: the command ended before, or it took too long.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            driver.kill()
            output, _ = driver.communicate()
            raise RuntimeError(f"the sweep did not come so far:\n{output[-2000:]}")
        time.sleep(POLL_S)
