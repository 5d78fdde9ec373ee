"""What ships beside the package: what a job gets and uploads, what listens where, and which libraries are declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from ray_jobs.clusters.check import DASHBOARD, LOOPBACK

pytestmark = pytest.mark.unit

SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
OPTIONAL_AT_RUN_TIME = ("rules", "baselines", "cluster", "mlflow", "wandb")
# aiohttp comes with ray[default], whose client raises its errors.
PUBLISHED_IN = {"yaml": "pyyaml", "pydantic_core": "pydantic", "aiohttp": "ray"}


@pytest.fixture
def runtime_env(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "modpo" / "orchestration" / "runtime_env.yaml").read_text())


@pytest.fixture
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def shipped_text_files(repository: Path) -> list[Path]:
    """Configuration and scripts of the checkout that someone may start something with."""
    files = [path for folder in ("modpo", "ray_jobs", "docs") for path in (repository / folder).rglob("*.y*ml")]
    files += repository.glob("*.y*ml")
    files += [repository / "Makefile", repository / "Dockerfile", repository / ".ci" / "run"]
    return files


def test_nothing_shipped_listens_on_every_address(repository: Path) -> None:
    files = shipped_text_files(repository)
    assert repository / "cluster.yaml" in files
    for path in files:
        text = path.read_text()
        assert "0.0.0.0" not in text, path
        assert set(DASHBOARD.findall(text)) <= {LOOPBACK}, path


def test_runtime_env_has_no_secrets_and_no_telemetry(runtime_env: dict[str, Any]) -> None:
    variables = runtime_env["env_vars"]
    assert not [name for name in variables if SECRET_NAME.search(name)]
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert variables["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert all(isinstance(value, str) for value in variables.values())


def test_a_job_uploads_the_code_and_not_runs_data_or_environments(runtime_env: dict[str, Any], tmp_path: Path) -> None:
    code = ["modpo/data/pairs.py", "ray_jobs/sweep.py", "ray_jobs/configs/demo.yaml"]
    left_out = ["data/pairs.jsonl", "runs/a/point.json", ".venv/lib/x.py", ".git/HEAD", "modpo/__pycache__/pairs.pyc"]
    checkout = tmp_path / "checkout"
    for name in (*code, *left_out):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=False, excludes=runtime_env["excludes"])
    with zipfile.ZipFile(package) as uploaded:
        names = {name for name in uploaded.namelist() if not name.endswith("/")}
    assert names == set(code)


def test_every_library_that_modpo_imports_is_a_declared_dependency(project: dict[str, Any], repository: Path) -> None:
    lines = [*project["dependencies"]]
    for extra in OPTIONAL_AT_RUN_TIME:
        lines += project["optional-dependencies"][extra]
    imported = {
        name
        for folder in ("modpo", "ray_jobs")
        for path in (repository / folder).rglob("*.py")
        for name in imported_packages(path)
    }
    third_party = imported - sys.stdlib_module_names - {"modpo", "ray_jobs"}
    assert {PUBLISHED_IN.get(name, name) for name in third_party} <= {required_name(line) for line in lines}


def required_name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9_-]+", requirement)[0]


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_no_dependency_may_grow_past_what_was_tried(project: dict[str, Any]) -> None:
    # A new major of these has broken every release of a library that built on it.
    for name in ("datasets", "deepspeed", "moocore", "peft", "pydantic", "ray", "torch", "transformers"):
        line = next(line for line in project["dependencies"] if required_name(line) == name)
        assert "<" in line
