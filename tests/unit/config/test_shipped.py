"""The sweep files in ray_jobs/configs: each is accepted as it stands, and with its data beside it `validate` agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from modpo.config import load_config
from modpo.orchestration.preflight import preflight
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "ray_jobs" / "configs").glob("*.yaml"))
WITH_DATA = [path for path in CONFIGS if "data/" in path.read_text(encoding="utf-8")]
PATH = re.compile(r"data/\w+\.json")


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty `data/`."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_a_shipped_file_is_accepted_and_named_like_its_run(path: Path, place: Path) -> None:
    for data in set(PATH.findall(path.read_text(encoding="utf-8"))):
        (place / data).touch()
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", WITH_DATA, ids=names(WITH_DATA))
def test_a_shipped_file_is_valid_for_its_data(path: Path, place: Path, shared_models: Path) -> None:
    for data in set(PATH.findall(path.read_text(encoding="utf-8"))):
        published = REPOSITORY.parent / "shared" / data
        if not published.is_file():
            pytest.skip(f"no published data in {published}")
        (place / data).symlink_to(published)
    found = preflight(path, overrides=[f"model.name_or_path={shared_models / 'tinystories656K'}"])
    with_pairs = {o["name"] for o in yaml.safe_load(path.read_text(encoding="utf-8"))["objectives"] if "pairs" in o}
    counts = {name: loaded.counts.pairs for name, loaded in found.data.objectives.items()}
    assert counts.keys() == with_pairs
    assert all(count >= 1000 for count in counts.values()), counts
