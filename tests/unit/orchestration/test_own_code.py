"""Reward code and what it imports of the user's own: any byte of that counts, and nothing is run to find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpo.orchestration.own_code import code_digest

FILES = {
    "mine/__init__.py": "raise RuntimeError('imported')\n",
    "mine/rewards/__init__.py": "",
    "mine/rewards/brief.py": (
        "import json, numpy\nfrom . import lists\nfrom ..text import words as count\nimport modpo.rewards.rules\n"
        "def score(prompts, responses):\n    from shared.late import scale\n    return scale\n"
    ),
    "mine/rewards/lists.py": "import mine.rewards.brief\n",
    "mine/text/__init__.py": "",
    "mine/text/words.py": "from mine.deep.er import x\n",
    "mine/deep/er.py": "x = 1\n",
    "mine/rewards/other.py": "",
    "shared/late.py": "def scale(): return 1\n",
    "unrelated.py": "",
    "json.py": "",
    "modpo.py": "",
}
# `json` is the name of a file here, so that is what an import of it would find first.
COUNTS = set(FILES) - {"mine/rewards/other.py", "unrelated.py", "modpo.py"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_is_imported_in_turn_counts_and_what_lies_beside_it_does_not(folder: Path) -> None:
    """A module of one file, so that finding it imports no package."""
    (folder / "start.py").write_text("from mine.rewards.brief import score\n", encoding="utf-8")
    before = code_digest("start:score")
    counted = set()
    for name, text in FILES.items():
        (folder / name).write_text(text + "# edited\n", encoding="utf-8")
        if code_digest("start:score") != before:
            counted.add(name)
        (folder / name).write_text(text, encoding="utf-8")
    assert code_digest("start:score") == before
    assert counted == COUNTS


def test_a_new_module_in_front_of_an_installed_one_counts(folder: Path) -> None:
    (folder / "start.py").write_text("import numpy\n", encoding="utf-8")
    before = code_digest("start:score")
    (folder / "numpy.py").write_text("", encoding="utf-8")
    assert code_digest("start:score") != before


def test_source_that_is_no_python_counts_by_its_bytes(folder: Path) -> None:
    (folder / "broken.py").write_text("def (\n", encoding="utf-8")
    before = code_digest("broken:score")
    (folder / "broken.py").write_text("def (\n\n", encoding="utf-8")
    assert code_digest("broken:score") not in {before, ""}


def test_of_an_installed_package_its_own_modules_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stands for that of installed packages: others in it are dependencies, known by their versions."""
    monkeypatch.setattr("modpo.orchestration.own_code.INSTALLED", (folder,))
    (folder / "mine" / "__init__.py").write_text("", encoding="utf-8")
    before = code_digest("mine.rewards.brief:score")
    (folder / "shared" / "late.py").write_text("# another release", encoding="utf-8")
    assert code_digest("mine.rewards.brief:score") == before
    (folder / "mine" / "deep" / "er.py").write_text("x = 2", encoding="utf-8")
    assert code_digest("mine.rewards.brief:score") != before


def test_no_module_no_digest(folder: Path) -> None:
    assert code_digest("absent:score") == code_digest("absent.inner:score") == ""
    assert code_digest("modpo.data.demo.rewards:vivid") != ""
