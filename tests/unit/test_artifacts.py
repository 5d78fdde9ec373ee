"""Artefacts are whole or not there: exceptions, kills, second writers and flipped bytes."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modpo.artifacts import (
    MANIFEST,
    commit_directory,
    create_json,
    digest_of,
    file_sha256,
    folder_digest,
    is_complete,
    is_valid,
    read_json,
    stage_path,
    write_json,
    writing,
)
from tests.unit.creation import assert_one_creates


def write_artefact(folder: Path, text: str = "content") -> Path:
    with writing(folder, {"stage": "test", "version": 3}) as aside:
        (aside / "data.txt").write_text(text)
        (aside / "inner").mkdir()
        (aside / "inner" / "more.bin").write_bytes(bytes(range(256)))
    return folder


class TestDigests:
    def test_known_value(self) -> None:
        """SHA-256 of `{"a":1,"b":[2,null]}` begins with these 16 characters (`printf ... | sha256sum`)."""
        assert digest_of({"b": [2, None], "a": 1}) == "cc243773f70c3dff"

    def test_key_order_does_not_matter_and_list_order_does(self) -> None:
        assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        assert digest_of([1, 2]) != digest_of([2, 1])

    @pytest.mark.parametrize("other", [1.5, "1", True, [1], None, {"1": 1}])
    def test_other_values_have_other_digests(self, other: object) -> None:
        assert digest_of(other) != digest_of(1)

    def test_numbers_that_are_not_json_are_refused(self) -> None:
        with pytest.raises(ValueError, match="JSON"):
            digest_of({"beta": math.nan})

    def test_file_digest_is_sha256(self, tmp_path: Path) -> None:
        """SHA-256 of `abc`, from FIPS 180-2."""
        (tmp_path / "f").write_bytes(b"abc")
        assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def test_folder_digest_sees_names_and_bytes_but_not_the_place(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name / "inner").mkdir(parents=True)
            (tmp_path / name / "inner" / "f").write_text("x")
        digest = folder_digest(tmp_path / "one")
        assert folder_digest(tmp_path / "two") == digest
        (tmp_path / "two" / "inner" / "f").write_text("y")
        assert folder_digest(tmp_path / "two") != digest
        (tmp_path / "one" / "inner" / "f").rename(tmp_path / "one" / "inner" / "g")
        assert folder_digest(tmp_path / "one") != digest


class TestWriting:
    def test_a_committed_folder_describes_itself(self, tmp_path: Path) -> None:
        folder = write_artefact(tmp_path / "deep" / "artefact")
        manifest = read_json(folder / MANIFEST)
        assert (manifest["stage"], manifest["version"]) == ("test", 3)
        assert set(manifest["files"]) == {"data.txt", "inner/more.bin"}
        assert is_complete(folder) and is_valid(folder)
        assert [path.name for path in folder.parent.iterdir()] == ["artefact"]

    def test_an_exception_leaves_nothing(self, tmp_path: Path) -> None:
        def fail_half_way() -> None:
            with writing(tmp_path / "artefact", {}) as aside:
                (aside / "data.txt").write_text("half")
                raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            fail_half_way()
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_visible_before_the_end(self, tmp_path: Path) -> None:
        with writing(tmp_path / "artefact", {}) as aside:
            (aside / "data.txt").write_text("x")
            assert not (tmp_path / "artefact").exists()
            assert not is_complete(aside)
            assert aside.name.startswith(".")

    def test_a_second_writer_keeps_the_first(self, tmp_path: Path) -> None:
        """Two processes that do the same work commit the same content: the later one changes nothing and is content."""
        folder = tmp_path / "artefact"
        with writing(folder, {}) as slow:
            (slow / "data.txt").write_text("slow")
            write_artefact(folder, "fast")
        assert (folder / "data.txt").read_text() == "fast"
        assert is_valid(folder)
        assert [path.name for path in tmp_path.iterdir()] == ["artefact"]

    def test_a_foreign_folder_in_the_way_is_not_mistaken_for_an_artefact(self, tmp_path: Path) -> None:
        (tmp_path / "artefact").mkdir()
        (tmp_path / "artefact" / "somebody.txt").write_text("mine")
        with pytest.raises(OSError, match="not empty"):
            write_artefact(tmp_path / "artefact")
        assert (tmp_path / "artefact" / "somebody.txt").read_text() == "mine"

    def test_a_killed_writer_leaves_no_artefact_and_is_in_nobodys_way(self, tmp_path: Path) -> None:
        script = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom modpo.artifacts import writing\n"
            "with writing(Path(sys.argv[1]), {}) as aside:\n"
            "    (aside / 'data.txt').write_text('half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        folder = tmp_path / "artefact"
        killed = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not folder.exists()
        assert is_valid(write_artefact(folder))

    def test_stage_folders_are_named_by_content(self, tmp_path: Path) -> None:
        assert stage_path(tmp_path, "prepared", "abc") == tmp_path / "artifacts" / "prepared-abc"


class TestValidity:
    @pytest.mark.parametrize("name", ["data.txt", "inner/more.bin", MANIFEST])
    def test_a_flipped_byte_anywhere_is_caught(self, tmp_path: Path, name: str) -> None:
        folder = write_artefact(tmp_path / "artefact")
        content = bytearray((folder / name).read_bytes())
        content[5] ^= 0x01
        (folder / name).write_bytes(content)
        assert not is_valid(folder)

    def test_a_truncated_file_is_caught(self, tmp_path: Path) -> None:
        folder = write_artefact(tmp_path / "artefact")
        (folder / "inner" / "more.bin").write_bytes(bytes(range(255)))
        assert not is_valid(folder)

    def test_a_missing_file_is_caught(self, tmp_path: Path) -> None:
        folder = write_artefact(tmp_path / "artefact")
        (folder / "data.txt").unlink()
        assert is_complete(folder)
        assert not is_valid(folder)

    @pytest.mark.parametrize(
        "manifest", ["", "{", "[]", "{}", '{"files": 3}', '{"files": ["data.txt"]}', '"text"', "null"]
    )
    def test_a_manifest_of_another_shape_is_no_manifest(self, tmp_path: Path, manifest: str) -> None:
        folder = write_artefact(tmp_path / "artefact")
        (folder / MANIFEST).write_text(manifest)
        assert not is_valid(folder)

    def test_a_folder_without_manifest_is_neither_complete_nor_valid(self, tmp_path: Path) -> None:
        folder = write_artefact(tmp_path / "artefact")
        (folder / MANIFEST).unlink()
        assert not is_complete(folder) and not is_valid(folder)
        assert not is_complete(tmp_path / "nowhere") and not is_valid(tmp_path / "nowhere")

    def test_nothing_is_committed_without_a_manifest_of_every_file(self, tmp_path: Path) -> None:
        aside = tmp_path / ".aside"
        aside.mkdir()
        (aside / "f").write_bytes(b"abc")
        commit_directory(aside, tmp_path / "done", {"kind": "checkpoint"})
        assert read_json(tmp_path / "done" / MANIFEST) == {
            "kind": "checkpoint",
            "files": {"f": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
            "sizes": {"f": 3},
            # Of the three above as JSON without spaces, its keys sorted: `printf ... | sha256sum`.
            "digest": "9e47a56fb4d1c68d",
        }


class TestJson:
    def test_round_trip_makes_folders(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b.json"
        write_json(path, {"ü": [1, 2.5, None]})
        assert read_json(path) == {"ü": [1, 2.5, None]}
        assert [p.name for p in path.parent.iterdir()] == ["b.json"]

    def test_a_value_that_cannot_be_written_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "f.json"
        write_json(path, {"step": 1})
        for value in ({"loss": math.nan}, {"folder": object()}):
            with pytest.raises((ValueError, TypeError)):
                write_json(path, value)
        assert json.loads(path.read_text()) == {"step": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["f.json"]

    def test_a_file_that_is_there_is_not_created_again(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "f.json"
        assert create_json(path, {"holder": 1})
        assert not create_json(path, {"holder": 2})
        assert read_json(path) == {"holder": 1}
        assert [p.name for p in path.parent.iterdir()] == ["f.json"]

    def test_of_many_at_once_exactly_one_creates_it(self, tmp_path: Path) -> None:
        for race in range(20):
            assert_one_creates(tmp_path / f"{race}.json")
