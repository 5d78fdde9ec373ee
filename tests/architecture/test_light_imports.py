"""What starts quickly stays quick: fresh processes that import one thing and show what came with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import small_sweep

HEAVY = ("torch", "ray", "deepspeed", "transformers", "peft", "datasets", "pyarrow", "plotly", "wandb", "mlflow")
BLOCKER = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
"""


def fresh_process(code: str, repository: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=repository, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def taken_by(module: str, repository: Path) -> set[str]:
    """Heavy libraries that a fresh process has loaded after importing a module."""
    code = f"import sys, {module}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(fresh_process(code, repository).split())


@pytest.mark.parametrize(
    "module", ["modpo", "modpo.errors", "modpo.artifacts", "modpo.config", "modpo.ledger", "modpo.cli"]
)
def test_nothing_heavy_comes_along(module: str, repository: Path) -> None:
    assert taken_by(module, repository) == set()


def test_a_sweep_without_reward_models_is_checked_without_what_trains_it(
    repository: Path, demo_world: Path, tmp_path: Path
) -> None:
    """The whole of `modpo validate`: half of its time would go into these imports."""
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(small_sweep(demo_world, "small")), encoding="utf-8")
    code = (
        "import sys\nfrom modpo.orchestration.preflight import preflight\n"
        f"preflight({str(path)!r})\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    taken = set(fresh_process(code, repository).split())
    assert "transformers" in taken
    assert taken & {"peft", "deepspeed", "ray"} == set()


def test_a_report_needs_neither_torch_nor_ray(repository: Path) -> None:
    """Every module of the package, with the training stack blocked: a laptop opens a report."""
    files = sorted((repository / "modpo" / "analysis").glob("*.py"))
    names = [f"modpo.analysis.{path.stem}" for path in files if path.stem != "__init__"]
    assert names
    blocked = {"torch", "ray", "deepspeed", "transformers", "peft"}
    fresh_process(BLOCKER.format(blocked=blocked) + f"import {', '.join(names)}", repository)


def test_core_needs_neither_ray_nor_deepspeed_nor_transformers(repository: Path) -> None:
    names = [f"modpo.core.{path.stem}" for path in sorted((repository / "modpo" / "core").glob("*.py"))]
    blocked = {"ray", "deepspeed", "transformers", "peft", "pydantic", "yaml", "pyarrow", "datasets"}
    imported = ", ".join(name for name in names if not name.endswith("__init__"))
    fresh_process(BLOCKER.format(blocked=blocked) + f"import {imported}", repository)


def test_the_blocker_blocks(repository: Path) -> None:
    code = BLOCKER.format(blocked={"torch"}) + "try:\n    import torch\nexcept ImportError as e:\n    print(e)"
    assert fresh_process(code, repository).strip() == "torch is blocked"
    assert taken_by("torch", repository) >= {"torch"}
