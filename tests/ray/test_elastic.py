"""A trial that loses a node goes on with the workers that are left, and trains what all of them would have trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ray.clusters import local_cluster
from tests.ray.elastic import SAVE_STEPS, elastic_sweep, lose_a_node

pytestmark = [pytest.mark.ray, pytest.mark.endurance]


def test_one_of_two_workers_goes_on_when_the_node_of_the_other_is_lost(
    demo_world: Path, one_worker: None, tmp_path: Path
) -> None:
    """Both nodes are used up to the last core, beside a head without one, and no group waits for another."""
    with local_cluster() as cluster:
        found = lose_a_node(cluster, elastic_sweep(demo_world, tmp_path, steps=300), comes_back=False)
    assert found.workers == [2, 1]
    assert found.attempts == 2
    assert found.repeated <= SAVE_STEPS
    assert found.losses <= 1e-5
    assert found.distance <= 1e-5
