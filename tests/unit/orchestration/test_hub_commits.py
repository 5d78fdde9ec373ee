"""A model on the hub is the commit that its branch or tag stands for, and not the name of the branch."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from modpo.orchestration.model_parts import files_digest, model_parts

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached(hub_cache: Path, ref: str, commit: str, file: str = "config.json") -> None:
    """As a download leaves it: the commit's files, and which commit the branch or tag stands for."""
    repository = hub_cache / "models--someone--tiny"
    snapshot, ref_file = repository / "snapshots" / commit, repository / "refs" / ref
    snapshot.mkdir(parents=True, exist_ok=True)
    ref_file.parent.mkdir(parents=True, exist_ok=True)
    (snapshot / file).write_text("{}", encoding="utf-8")
    ref_file.write_text(commit, encoding="utf-8")


def test_a_branch_that_moved_is_another_model(hub_cache: Path) -> None:
    cached(hub_cache, "main", FIRST)
    before = model_parts("someone/tiny", None)
    cached(hub_cache, "main", SECOND)
    after = model_parts("someone/tiny", None)
    assert set(before.values()) == {f"someone/tiny@{FIRST}"}
    assert set(after.values()) == {f"someone/tiny@{SECOND}"}


def test_a_tag_and_a_branch_of_one_commit_are_one_model(hub_cache: Path) -> None:
    cached(hub_cache, "main", FIRST)
    cached(hub_cache, "v1", FIRST)
    assert model_parts("someone/tiny", "v1") == model_parts("someone/tiny", None) == model_parts("someone/tiny", FIRST)


def test_an_adapter_has_another_file(hub_cache: Path) -> None:
    cached(hub_cache, "main", FIRST, "adapter_config.json")
    before = files_digest("someone/tiny")
    cached(hub_cache, "main", SECOND, "adapter_config.json")
    assert files_digest("someone/tiny") != before


@pytest.mark.parametrize("name", ["someone/else", "not/a/repository"])
def test_what_is_not_in_the_cache_has_its_name(hub_cache: Path, name: str) -> None:
    assert set(model_parts(name, None).values()) == {f"{name}@main"}
    assert set(model_parts(name, "v2").values()) == {f"{name}@v2"}
