"""What a user gets wrong is refused by `validate`, with its place and remedy, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import Shell, small_sweep

pytestmark = pytest.mark.pipeline

GOOD = b'{"prompt": "a b", "chosen": "c d", "rejected": "e f"}\n'
OTHER = b'{"prompt": "g h", "chosen": "c d", "rejected": "e f"}\n'

Change = Callable[[dict[str, Any], Path], None]


def pairs_file(*lines: bytes) -> Change:
    def change(raw: dict[str, Any], folder: Path) -> None:
        path = folder / "bad.jsonl"
        path.write_bytes(GOOD + OTHER + b"".join(lines))
        raw["objectives"][0]["pairs"] = {"path": str(path)}

    return change


def setting(section: str, **values: Any) -> Change:
    def change(raw: dict[str, Any], folder: Path) -> None:
        raw[section] = {**raw.get(section, {}), **values}

    return change


def missing_file(raw: dict[str, Any], folder: Path) -> None:
    raw["objectives"][0]["pairs"] = {"path": "no-such-file.jsonl"}


def nan_score(raw: dict[str, Any], folder: Path) -> None:
    path = folder / "scored.jsonl"
    rows = [b'{"prompt": "a", "response": "b", "score": 1}\n', b'{"prompt": "a", "response": "c", "score": NaN}\n']
    path.write_bytes(b"".join(rows))
    raw["objectives"][0]["pairs"] = {"path": str(path), "scored": {"score": "score"}}


def one_objective(raw: dict[str, Any], folder: Path) -> None:
    raw["objectives"] = raw["objectives"][:1]


def storage_below_a_file(raw: dict[str, Any], folder: Path) -> None:
    (folder / "file").write_text("in the way")
    raw["storage_path"] = str(folder / "file")


def four_bits_on_processors(raw: dict[str, Any], folder: Path) -> None:
    raw["model"]["load_in_4bit"] = True
    raw["sft"]["lora"] = {}
    raw["resources"] = {"gpus_per_worker": 0}


CASES: dict[str, tuple[Change, int, tuple[str, ...]]] = {
    "missing file": (missing_file, 2, ("MS-142", "objectives.0.pairs.path", "'no-such-file.jsonl'")),
    "wrong column": (pairs_file(b'{"prmpt": "a", "chosen": "c", "rejected": "e"}\n'), 2, ("bad.jsonl:3 (prompt)",)),
    "empty response": (pairs_file(b'{"prompt": "a", "chosen": " ", "rejected": "e"}\n'), 2, ("bad.jsonl:3 (chosen)",)),
    "identical responses": (
        pairs_file(b'{"prompt": "a", "chosen": "e", "rejected": "e"}\n'), 2, ("MS-207", "bad.jsonl:3"),
    ),
    "not UTF-8": (pairs_file(b'{"prompt": "\xff"}\n'), 2, ("MS-203", "byte 0xff at offset 12", "iconv")),
    "NaN score": (nan_score, 2, ("scored.jsonl:2 (score)", "a finite number")),
    "weights that do not sum to 1": (
        setting("sweep", weights={"list": [{"vivid": 0.5, "brief": 0.6}]}), 2, ("MS-133", "sweep.weights.list.0"),
    ),
    "unknown model": (setting("model", name_or_path="no/such/model/here"), 2, ("MS-141", "model.name_or_path")),
    "one objective": (one_objective, 2, ("MS-121", "K >= 2")),
    "more GPUs than exist": (setting("resources", gpus_per_worker=64), 4, ("MS-401", "with 1 CPUs and 64 GPUs each")),
    "4 bits without a GPU": (four_bits_on_processors, 4, ("MS-403", "model.load_in_4bit", "workers without a GPU")),
    "storage not writable": (storage_below_a_file, 4, ("MS-402", "storage_path")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_refused_with_place_and_remedy(name: str, demo_world: Path, tmp_path: Path) -> None:
    change, exit_status, expected = CASES[name]
    raw = small_sweep(demo_world, "bad")
    change(raw, tmp_path)
    shell = Shell(tmp_path)
    config = shell.sweep_file(raw)
    before = sorted(tmp_path.rglob("*"))
    done = shell.modpo("validate", config)
    assert done.returncode == exit_status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error[MS-" in done.stderr and "help:" in done.stderr
    for text in expected:
        assert text in done.stderr, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_all_mistakes_are_shown_together(demo_world: Path, tmp_path: Path) -> None:
    raw = small_sweep(demo_world, "bad", resources={"num_workers": 999})
    pairs_file(b'{"prompt": "a", "chosen": "e", "rejected": "e"}\n', b"not json\n")(raw, tmp_path)
    raw["trainign"] = {}
    raw["sweep"] = {"weights": {"list": [{"vivid": 2}]}}
    shell = Shell(tmp_path)
    done = shell.modpo("validate", shell.sweep_file(raw))
    assert done.returncode == 2
    for code in ("MS-111", "MS-133", "MS-207", "MS-204", "MS-401"):
        assert f"error[{code}]" in done.stderr, done.stderr


def test_a_good_file_passes_and_leaves_nothing(demo_world: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    config = shell.sweep_file(small_sweep(demo_world, "good"))
    done = shell.modpo("validate", config)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_a_storage_path_that_cannot_be_written_starts_no_verification(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = Shell(tmp_path).modpo("verify", "--storage-path", "file")
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.count("error[MS-402]: the storage path cannot be written") == 1
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
