"""The pages say what the code does: generated keys, error codes, links and whole sweep files are held against it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from modpo.config import SweepConfig, load_config
from modpo.config.reference import anchor, config_reference

CODE = re.compile(r"\bMS-\d{3}\b")
LINK = re.compile(r"\]\((?!https?://)([^)\s#]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
WHOLE_FILE = "# sweep.yaml\n"


@pytest.fixture(scope="module")
def pages(repository: Path) -> dict[Path, str]:
    """Every page for users, by path."""
    paths = [repository / "README.md", repository / "CONTRIBUTING.md", *sorted((repository / "docs").glob("*.md"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture(scope="module")
def raised(repository: Path) -> set[str]:
    """Every error code in the code."""
    files = (repository / "modpo").rglob("*.py")
    return {code for path in files for code in CODE.findall(path.read_text(encoding="utf-8"))}


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text) if found == language]


def fragments(text: str) -> set[str]:
    """The headings of a page as GitHub links to them."""
    return {anchor(heading) for heading in HEADING.findall(FENCE.sub("", text))}


def test_config_reference_is_the_one_of_the_code(repository: Path) -> None:
    published = (repository / "docs" / "config.md").read_text(encoding="utf-8")
    expected = config_reference(SweepConfig)
    assert published == expected, "out of date: python -m modpo.config.reference > docs/config.md"


def test_every_key_of_the_tree_is_in_the_reference_with_a_meaning() -> None:
    """Told from the schema's own list of properties, not from the generator's walk."""
    schema = SweepConfig.model_json_schema()
    rows = Counter(re.findall(r"^\| `(\w+)` \| .+ \| .+ \| \S.* \|$", config_reference(SweepConfig), re.MULTILINE))
    for node in (schema, *schema["$defs"].values()):
        assert set(node["properties"]) <= set(rows)
    assert rows["offload"] == 3, "the engine stands under training, sft and trained rewards"


class TestErrorCodes:
    def test_every_code_is_explained_once(self, raised: set[str], repository: Path) -> None:
        page = (repository / "docs" / "errors.md").read_text(encoding="utf-8")
        explained = Counter(re.findall(r"^\| (MS-\d{3}) \|", page, re.MULTILINE))
        assert sorted(raised - explained.keys()) == []
        assert sorted(explained.keys() - raised) == []
        assert [code for code, count in explained.items() if count > 1] == []

    def test_no_page_names_a_code_that_nothing_raises(self, raised: set[str], pages: dict[Path, str]) -> None:
        named = {code for text in pages.values() for code in CODE.findall(text)}
        assert sorted(named - raised) == []


def test_the_readme_has_every_file_of_the_library_once(repository: Path) -> None:
    """One line a file, but for the folders of data sets and of the demo, which have one line each."""
    tree = (repository / "README.md").read_text(encoding="utf-8").split("modpo/\n", maxsplit=1)[1].split("```")[0]
    listed = Counter(re.findall(r"^ +(\w+\.py) ", tree, re.MULTILINE))
    folders = ("named", "demo")
    files = [
        path.name
        for path in (repository / "modpo").rglob("*.py")
        if not path.name.startswith("__") and path.parent.name not in folders
    ]
    assert listed == Counter(files)
    assert all(re.search(rf"^ +{folder}/ ", tree, re.MULTILINE) for folder in folders)


def test_links_lead_somewhere(pages: dict[Path, str]) -> None:
    """To a file that exists, and on a page of ours to a heading that exists."""
    broken = []
    for path, text in pages.items():
        for target, fragment in LINK.findall(FENCE.sub("", text)):
            linked = (path.parent / target).resolve() if target else path
            found = linked.exists() and (not fragment or fragment in fragments(linked.read_text(encoding="utf-8")))
            if not found:
                broken.append(f"{path.name}: {target}#{fragment}")
    assert broken == []


class TestSweepFiles:
    @pytest.fixture
    def whole_files(self, pages: dict[Path, str]) -> list[str]:
        found = [body for text in pages.values() for body in blocks(text, "yaml") if body.startswith(WHOLE_FILE)]
        assert found, "no page shows a whole sweep file"
        return found

    def test_every_whole_sweep_file_is_accepted(
        self, whole_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for text in whole_files:
            write_what_is_named(tmp_path, yaml.safe_load(text))
            (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
            assert load_config("sweep.yaml").name

    def test_every_yaml_block_is_at_least_a_part_of_one(self, pages: dict[Path, str]) -> None:
        """Keys and types, in front of the required keys that a part leaves out."""
        parts = [yaml.safe_load(body) for text in pages.values() for body in blocks(text, "yaml")]
        assert len(parts) > 5
        for part in parts:
            SweepConfig.model_validate(
                {"name": "part", "model": {"name_or_path": "org/model"}, "objectives": [], **part}
            )


def write_what_is_named(folder: Path, raw: dict[str, Any]) -> None:
    """Empty data files where a sweep file looks for its own."""
    for objective in raw["objectives"]:
        if path := objective.get("pairs", {}).get("path"):
            (folder / path).touch()
