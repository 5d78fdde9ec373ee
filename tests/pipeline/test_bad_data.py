"""What is wrong with data is said by `validate`: all of it, by file, row and field, and never with somebody's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modpo.errors import InputError
from modpo.orchestration.preflight import Preflight, preflight
from tests.pipeline.bad_files import BAD_FILES
from tests.pipeline.bad_forms import BAD_FORMS
from tests.pipeline.bad_pairs import BAD_PAIRS
from tests.pipeline.conftest import Shell
from tests.pipeline.data_cases import SECRET, Case, lines, pair
from tests.pipeline.good_data import GOOD_DATA
from tests.sweeps import write_sweep

pytestmark = pytest.mark.pipeline

BAD_DATA = BAD_FILES | BAD_PAIRS | BAD_FORMS


def validated(case: Case, world: Path, folder: Path) -> Preflight:
    """What the command line calls, in this process."""
    return preflight(write_sweep(folder, case.write(world, folder)))


def refusal(case: Case, world: Path, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        validated(case, world, folder)
    return caught.value.render().replace(f"{folder}/", "")


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_in_these_words(name: str, demo_world: Path, tmp_path: Path) -> None:
    message = refusal(BAD_DATA[name], demo_world, tmp_path)
    assert message == BAD_DATA[name].message
    assert SECRET not in message
    for block in message.split("error[MS-")[1:]:
        assert all(f"\n  {part}" in block for part in ("-->", "got:", "wanted:", "help:")), block


@pytest.mark.parametrize("name", GOOD_DATA)
def test_odd_but_valid_data_is_accepted_and_counted(name: str, demo_world: Path, tmp_path: Path) -> None:
    found = validated(GOOD_DATA[name], demo_world, tmp_path)
    counts = found.data.objectives["brief"].counts.as_dict()
    assert {kind: count for kind, count in counts.items() if count} == GOOD_DATA[name].counts


def test_every_code_of_the_rows_has_a_case() -> None:
    """But for what needs a hub, a store or another user's file."""
    shown = "".join(case.message for case in BAD_DATA.values())
    codes = ["MS-201", "MS-202", "MS-203", "MS-204", "MS-205", "MS-207", "MS-208", "MS-209", "MS-210", "MS-221"]
    codes += ["MS-222", "MS-224", "MS-240", "MS-241", "MS-242", "MS-243", "MS-244", "MS-245"]
    codes += ["MS-270", "MS-271", "MS-272", "MS-273", "MS-274"]
    assert [code for code in codes if f"error[{code}]" not in shown] == []


def test_of_thousands_of_faults_the_number_comes_first(demo_world: Path, tmp_path: Path) -> None:
    """Two kinds: both are counted, and as many rows are listed as a message shows."""
    rows = lines(*[pair(""), pair("p", None)] * 3000)
    blocks = refusal(Case(rows), demo_world, tmp_path).split("error[")
    assert blocks[1] == (
        "MS-246]: the fault MS-208 is there 3000 times, and only the first are listed\n"
        "  --> rows.jsonl\n  got: 3000 times MS-208\n  wanted: none\n"
        "  help: mend the rows that are listed, and those like them\n"
    )
    assert blocks[2].startswith("MS-246]: the fault MS-209 is there 3000 times")
    assert [block[:6] for block in blocks[3:]] == ["MS-208", "MS-209"] * 9
    assert blocks[-1].endswith("... and 20 more of 40 problems")


def test_all_sources_are_judged_together(demo_world: Path, tmp_path: Path) -> None:
    """Pairs, texts to imitate and a mistake in the sweep file itself."""
    raw = Case(lines(pair(""))).write(demo_world, tmp_path)
    (tmp_path / "texts.jsonl").write_text(lines({"prompt": SECRET}))
    raw["sft"]["data"] = {"path": str(tmp_path / "texts.jsonl")}
    raw["sweep"] = {"weights": {"list": [{"vivid": 2}]}}
    with pytest.raises(InputError) as caught:
        preflight(write_sweep(tmp_path, raw))
    found = [(problem.code, problem.where.removeprefix(f"{tmp_path}/")) for problem in caught.value.problems]
    assert found == [
        ("MS-133", "sweep.weights.list.0"),
        ("MS-208", "rows.jsonl:1 (prompt)"),
        ("MS-202", "texts.jsonl:1 (response)"),
    ]


class TestCommandLine:
    """The same through `modpo validate`, in a process of its own."""

    def run(self, raw: dict[str, Any], folder: Path) -> tuple[int, str, str]:
        shell = Shell(folder)
        config = shell.sweep_file(raw)
        before = sorted(folder.rglob("*"))
        done = shell.modpo("validate", config)
        assert sorted(folder.rglob("*")) == before, "nothing is written"
        return done.returncode, done.stdout, done.stderr.replace(f"{folder}/", "")

    @pytest.mark.parametrize("name", ["lines in latin-1", "values that are no text"])
    def test_bad_data(self, name: str, demo_world: Path, tmp_path: Path) -> None:
        status, output, errors = self.run(BAD_DATA[name].write(demo_world, tmp_path), tmp_path)
        assert (status, output) == (2, "")
        assert errors.strip() == BAD_DATA[name].message

    def test_counts_of_valid_data(self, demo_world: Path, tmp_path: Path) -> None:
        name = "labels that contradict each other"
        status, output, errors = self.run(GOOD_DATA[name].write(demo_world, tmp_path), tmp_path)
        assert (status, errors) == (0, "")
        header = next(line for line in output.splitlines() if "conflicting" in line)
        row = next(line for line in output.splitlines() if line.strip().startswith("brief "))
        cells = dict(zip(header.replace("┃", "│").split("│"), row.split("│"), strict=True))
        shown = {kind.strip(): cell.strip() for kind, cell in cells.items()}
        assert {kind: int(shown[kind]) for kind in GOOD_DATA[name].counts} == GOOD_DATA[name].counts
