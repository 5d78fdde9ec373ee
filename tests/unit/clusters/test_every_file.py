"""Every YAML file that a user starts a cluster or a job with is held against a schema by some test."""

from __future__ import annotations

from pathlib import Path

import yaml
from ray.runtime_env import RuntimeEnv

from tests.unit.clusters.descriptions import FILES
from tests.unit.config.test_shipped import CONFIGS

RUNTIME_ENV = "ray_jobs/runtime_env.yaml"


def test_no_shipped_file_is_without_a_test(repository: Path) -> None:
    shipped = {"cluster.yaml", *(str(p.relative_to(repository)) for p in (repository / "ray_jobs").rglob("*.y*ml"))}
    configs = {str(path.relative_to(repository)) for path in CONFIGS}
    assert len(configs) >= 6
    assert shipped == {*FILES.values(), *configs, RUNTIME_ENV}


def test_ray_accepts_the_runtime_environment_and_knows_all_of_its_fields(repository: Path) -> None:
    written = yaml.safe_load((repository / RUNTIME_ENV).read_text())
    assert dict(RuntimeEnv(**written)) == written
    # A field that Ray does not know would be taken without a word.
    assert written.keys() <= RuntimeEnv.known_fields
