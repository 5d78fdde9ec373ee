"""The wheel alone is enough: built, installed apart from the checkout, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, started as a user would: without this checkout on its path."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, env=outside(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def outside() -> dict[str, str]:
    # Not a local variable of `run`: pytest prints those, and an environment may hold secrets.
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repository, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a new environment that holds the wheel, and borrows only the dependencies of this one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment)
    # A path file adds its folder only, and does not follow the path files in there: an editable install stays behind.
    (Path(purelib.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=environment)
    return environment / "bin"


def test_wheel_holds_the_package_and_its_templates_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    name_and_version = "-".join(wheel.name.split("-")[:2])
    assert {name.partition("/")[0] for name in names} == {"modpo", f"{name_and_version}.dist-info"}
    assert {"modpo/py.typed", "modpo/orchestration/runtime_env.yaml"} <= set(names)
    assert any(name.startswith("modpo/analysis/") and name.endswith(".jinja") for name in names)
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert [name for name in names if name.endswith("LICENSE")]


def test_modpo_is_imported_from_the_wheel_and_not_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import modpo; print(modpo.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)


def test_template_of_the_report_is_found_beside_the_installed_module(installed: Path, tmp_path: Path) -> None:
    code = "from importlib.resources import files; print(*(f.name for f in files('modpo.analysis').iterdir()))"
    names = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert [name for name in names if name.endswith(".jinja")]


def test_command_line_starts_and_lists_its_commands(installed: Path, tmp_path: Path) -> None:
    text = run(installed / "modpo", "--help", cwd=tmp_path)
    for command in ("validate", "plan", "run", "report", "submit"):
        assert command in text
