"""Runs on an object store, held against an emulator of S3: what one node commits another finds, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem
from s3fs import S3FileSystem

from modpo.artifacts import (
    MANIFEST,
    committed,
    damage_of,
    find_json,
    is_complete,
    is_valid,
    read_json,
    remove,
    set_aside,
    verified,
    write_json,
    writing,
)
from modpo.errors import SetupError
from modpo.ledger import point_ids
from modpo.storage import address, check_reachable, check_url, stored, url_of, working_copy
from modpo.telemetry import MetricsFile
from tests.acceptance.bits import differing
from tests.object_stores import served_store
from tests.unit.creation import assert_one_creates
from tests.unit.training.states import of_two_ranks, state

Node = Callable[[str], Path]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AbstractFileSystem]:
    with served_store(tmp_path_factory.mktemp("store") / "log"):
        yield new_bucket("bucket")


def new_bucket(name: str) -> AbstractFileSystem:
    """On the store that the environment names now: fsspec keeps what it has connected to before."""
    S3FileSystem.clear_instance_cache()
    files = S3FileSystem(use_listings_cache=False)
    files.mkdir(name)
    return files


@pytest.fixture
def node(
    store: AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Node:
    """The run's folder as a node knows it, by the node's name. Every test has a run of its own."""

    def run_dir(name: str) -> Path:
        monkeypatch.setenv("MODPO_SCRATCH", str(tmp_path / name))
        return working_copy(f"s3://bucket/{abs(hash(request.node.name))}/run")

    return run_dir


def write_artefact(folder: Path, text: str = "content") -> Path:
    with writing(folder, {"stage": "test"}) as aside:
        (aside / "data.txt").write_text(text)
        (aside / "inner").mkdir()
        (aside / "inner" / "more.bin").write_bytes(bytes(range(256)))
    return folder


def object_of(store: AbstractFileSystem, folder: Path, name: str) -> str:
    """The key of a committed file."""
    place = stored(folder)
    assert place is not None
    (key,) = [key for key in store.find(place.key) if key.endswith(f"/{name}")]
    return str(key)


class TestPaths:
    def test_a_url_has_one_path_on_every_node_and_the_path_leads_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODPO_SCRATCH", "/big/disk")
        path = working_copy("s3://bucket/some/prefix/")
        assert path == Path("/big/disk/modpo-objects/s3/bucket/some/prefix")
        assert url_of(path / "run" / "points") == "s3://bucket/some/prefix/run/points"
        monkeypatch.delenv("MODPO_SCRATCH")
        assert url_of(path) == "s3://bucket/some/prefix", "it is known without the variable, by the path alone"

    def test_what_is_hidden_is_the_working_copys_own(self) -> None:
        path = Path("/x/modpo-objects/gs/bucket/run")
        assert url_of(path / ".final.1234" / "weights") is None
        assert url_of(path / "final") == "gs://bucket/run/final"

    def test_a_folder_is_itself(self, tmp_path: Path) -> None:
        assert working_copy(str(tmp_path)) == tmp_path
        assert url_of(tmp_path) is None and stored(tmp_path) is None and address(tmp_path) == str(tmp_path)

    @pytest.mark.parametrize(
        ("url", "what"),
        [
            ("ftp://host/runs", "runs cannot be stored there"),
            ("s3://", "names no bucket"),
            ("s3:///runs", "names no bucket"),
            ("s3://bucket//runs", "empty or hidden part"),
            ("s3://bucket/.runs", "empty or hidden part"),
        ],
    )
    def test_urls_that_are_none(self, url: str, what: str) -> None:
        (problem,) = check_url(url)
        assert problem.code == "MS-189" and what in problem.what and problem.wanted and problem.remedy

    @pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "gs://bucket/a/b", "abfs://c@account/runs"])
    def test_urls_that_are(self, url: str) -> None:
        assert list(check_url(url)) == []


class TestReachable:
    def test_a_bucket_that_may_be_written_is_left_as_it_was(self, store: AbstractFileSystem, node: Node) -> None:
        node("one")
        before = store.find("bucket")
        assert list(check_reachable("s3://bucket/runs")) == []
        assert store.find("bucket") == before

    def test_a_bucket_that_is_not_there(self, node: Node) -> None:
        node("one")
        (problem,) = check_reachable("s3://nobody-has-this/runs")
        assert problem.code == "MS-423" and "does not exist" in problem.got
        assert problem.where.startswith("s3://nobody-has-this/runs/modpo-probe-")

    def test_a_package_that_is_not_installed(self) -> None:
        (problem,) = check_reachable("abfs://container/runs")
        assert problem.code == "MS-422" and "adlfs" in problem.remedy


class TestFolders:
    def test_what_one_node_commits_another_has(self, node: Node) -> None:
        first = write_artefact(node("one") / "artifacts" / "a")
        second = node("two") / "artifacts" / "a"
        assert first != second and not second.exists()
        assert is_complete(second) and is_valid(second)
        assert (verified(second) / "data.txt").read_text() == "content"
        assert (second / "inner" / "more.bin").read_bytes() == bytes(range(256))
        assert committed(second.parent, "*") == [second]

    def test_files_without_a_manifest_are_not_there(self, store: AbstractFileSystem, node: Node) -> None:
        """What a writer leaves that dies before its last request."""
        folder = write_artefact(node("one") / "artifacts" / "a")
        store.rm(object_of(store, folder, MANIFEST))
        assert not is_complete(folder) and damage_of(folder) == "it has no manifest.json"
        assert committed(folder.parent, "*") == []
        write_artefact(folder, "again")
        assert (verified(node("two") / "artifacts" / "a") / "data.txt").read_text() == "again"

    def test_of_two_writers_the_first_manifest_decides_and_no_byte_is_mixed(
        self, store: AbstractFileSystem, node: Node
    ) -> None:
        one, two = node("one") / "artifacts" / "a", node("two") / "artifacts" / "a"
        with writing(one, {}) as slow:
            (slow / "data.txt").write_text("slow")
            write_artefact(two, "fast")
        assert (verified(one) / "data.txt").read_text() == "fast"
        place = stored(one)
        assert place is not None
        assert len(store.find(place.key)) == 3, "the files of the one that lost are gone"

    def test_a_byte_that_changed_on_the_store_is_never_read(self, store: AbstractFileSystem, node: Node) -> None:
        key = object_of(store, write_artefact(node("one") / "artifacts" / "a"), "data.txt")
        store.pipe_file(key, b"contenu")
        other = node("two") / "artifacts" / "a"
        with pytest.raises(SetupError) as caught:
            verified(other)
        (problem,) = caught.value.problems
        assert (problem.code, problem.got) == ("MS-424", "data.txt has other bytes")
        assert problem.where == address(other)
        assert not is_complete(other) and not other.exists(), "it is set aside"
        assert (verified(write_artefact(other, "anew")) / "data.txt").read_text() == "anew"

    def test_an_object_that_was_cut_is_seen_without_fetching(self, store: AbstractFileSystem, node: Node) -> None:
        folder = write_artefact(node("one") / "artifacts" / "a")
        store.pipe_file(object_of(store, folder, "more.bin"), b"short")
        assert damage_of(folder) == "inner/more.bin has 5 of 256 bytes"

    def test_a_working_copy_that_is_damaged_is_fetched_again(self, node: Node) -> None:
        write_artefact(node("one") / "artifacts" / "a")
        folder = verified(node("two") / "artifacts" / "a")
        (folder / "data.txt").write_text("contenu")
        write_json(folder.parent.parent / "run.json", {})
        from modpo import artifacts

        artifacts._verified.clear()  # another process of the node
        assert (verified(folder) / "data.txt").read_text() == "content"

    def test_removed_and_set_aside(self, store: AbstractFileSystem, node: Node) -> None:
        one, two = (write_artefact(node("one") / "artifacts" / name) for name in "ab")
        remove(one)
        assert not is_complete(one) and not one.exists()
        kept = set_aside(two)
        assert not is_complete(two) and not two.exists()
        assert json.loads(store.cat_file(kept.removeprefix("s3://")))["stage"] == "test"


class TestJson:
    def test_every_node_reads_what_was_written_last(self, node: Node) -> None:
        one, two = node("one") / "run.json", node("two") / "run.json"
        assert find_json(one) is None
        with pytest.raises(FileNotFoundError):
            read_json(one)
        for value in ({"step": 1}, {"step": 2}):
            write_json(one, value)
            assert read_json(two) == value
        assert not one.exists(), "nothing is kept beside the store"

    def test_of_many_at_once_exactly_one_creates_it(self, node: Node) -> None:
        folder = node("one")
        for race in range(5):
            assert_one_creates(folder / f"{race}.json")

    def test_lines_of_several_nodes(self, store: AbstractFileSystem, node: Node) -> None:
        for name in ("one", "two", "one"):
            MetricsFile(node(name) / "points" / "p" / "metrics.jsonl").append({"node": name})
        place = stored(node("one") / "points" / "p" / "metrics.jsonl")
        assert place is not None
        lines = store.cat_file(place.key).splitlines()
        assert [json.loads(line)["node"] for line in lines] == ["one", "two", "one"]

    def test_the_ledgers_points_are_listed(self, node: Node) -> None:
        for trial_id in ("b", "a"):
            write_json(node("one") / "points" / trial_id / "point.json", {})
            write_artefact(node("one") / "points" / trial_id / "final")
        assert point_ids(node("two")) == ["a", "b"]


class TestCheckpoints:
    def test_another_node_goes_on_with_the_same_bits(self, node: Node) -> None:
        for step in (10, 20, 30):
            of_two_ranks(node("one") / "checkpoints").save(state(step))
        checkpoints = of_two_ranks(node("two") / "checkpoints")
        newest = checkpoints.newest_valid()
        assert newest is not None and newest.name == "step_000030"
        assert differing(checkpoints.load(newest).moments, state(30).moments) == 0
        assert [folder.name for folder in committed(checkpoints.root, "*")] == ["step_000020", "step_000030"]

    def test_a_damaged_one_is_passed_over_for_good(self, store: AbstractFileSystem, node: Node) -> None:
        for step in (10, 20):
            newer = of_two_ranks(node("one") / "checkpoints").save(state(step))
        key = object_of(store, newer, "moments.safetensors")
        content = bytearray(store.cat_file(key))
        content[-1] ^= 0x01
        store.pipe_file(key, bytes(content))
        checkpoints = of_two_ranks(node("two") / "checkpoints")
        newest = checkpoints.newest_valid()
        assert newest is not None and newest.name == "step_000010"
        assert [folder.name for folder in committed(checkpoints.root, "*")] == ["step_000010"]
        again = checkpoints.save(state(20))
        assert of_two_ranks(node("three") / "checkpoints").newest_valid() == node("three") / "checkpoints" / again.name

    def test_the_same_step_saved_again_replaces_it(self, node: Node) -> None:
        for name in ("one", "two"):
            of_two_ranks(node(name) / "checkpoints").save(state(10))
        assert of_two_ranks(node("three") / "checkpoints").newest_valid() is not None


@pytest.mark.slow  # the clients wait between two tries
def test_a_store_that_is_busy_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of all requests is answered with 503: the clients ask again, and no call fails."""
    with served_store(tmp_path / "log", server=("-m", "tests.flaky_store")):
        monkeypatch.setenv("MODPO_SCRATCH", str(tmp_path / "one"))
        new_bucket("busy")
        checkpoints = of_two_ranks(working_copy("s3://busy/checkpoints"))
        for step in (10, 20, 30):
            checkpoints.save(state(step))
        monkeypatch.setenv("MODPO_SCRATCH", str(tmp_path / "two"))
        newest = of_two_ranks(working_copy("s3://busy/checkpoints")).newest_valid()
        assert newest is not None and newest.name == "step_000030"
    S3FileSystem.clear_instance_cache()
    assert (tmp_path / "log").read_text().count(" 503 ") > 10
