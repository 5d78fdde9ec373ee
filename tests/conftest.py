"""Fixtures of all layers: a blocked network, and the demo world written once per test session."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.acceptance.plugin"]

# Before anything imports huggingface_hub or datasets, which read these once.
_HUB_CACHE = tempfile.TemporaryDirectory(prefix="modpo-tests-hub-")
os.environ["HF_HOME"] = _HUB_CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WORLD_SEED = 7
WORLD_CORPUS_SIZE = 400
WORLD_PAIRS_PER_OBJECTIVE = 60

# Files whose tests, or fixtures that files share, start Ray.
WITH_CLUSTERS = ("tests/ray/", "tests/pipeline/test_run.py", "tests/pipeline/test_hostile.py")

REPOSITORY = Path(__file__).resolve().parent.parent


class NetworkBlockedError(RuntimeError):
    """A test tried to reach another machine."""


@pytest.fixture(scope="session", autouse=True)
def blocked_network() -> Iterator[type[NetworkBlockedError]]:
    """Streams to other machines fail in this process; unix sockets, datagrams and this machine itself are open."""
    original = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and self.type & socket.SOCK_STREAM and not _is_this_machine(address[0]):
            self.close()
            raise NetworkBlockedError(f"a test opened a connection to {address[0]}:{address[1]}")
        original(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield NetworkBlockedError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of `tests/unit` has the marker of its layer; what starts clusters comes first, as it takes longest."""
    for item in items:
        if (REPOSITORY / "tests" / "unit") in item.path.parents:
            item.add_marker("unit")
    items.sort(key=lambda item: not _starts_clusters(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes: one has all files that start clusters, so that no two of them share the cores."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "clusters" if _starts_clusters(nodeid) else nodeid.split("::", maxsplit=1)[0]

    return ByFile(config, log)


def _starts_clusters(nodeid: str) -> bool:
    return nodeid.startswith(WITH_CLUSTERS)


def _is_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("localhost", socket.gethostname())
    # Only an address of this machine can be listened on.
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """Writes the demo world, small enough for a unit test: (folder name, seed) -> folder."""
    from modpo.data.demo import world

    def write(name: str, seed: int) -> Path:
        folder = tmp_path_factory.mktemp(name) / "world"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world, "CORPUS_SIZE", WORLD_CORPUS_SIZE)
            patch.setattr(world, "PAIRS_PER_OBJECTIVE", WORLD_PAIRS_PER_OBJECTIVE)
            world.write_world(folder, seed=seed)
        return folder

    return write


@pytest.fixture(scope="session")
def demo_world(small_world: Callable[[str, int], Path]) -> Path:
    """`model/`, `corpus.jsonl`, `vivid.jsonl` and `brief.jsonl` of a small demo world: read it, never write to it."""
    return small_world("demo", WORLD_SEED)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of tiny real models beside the checkout; a test that asks for it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "models"
    if not folder.is_dir():
        pytest.skip("no ../shared/models beside the checkout: the real tiny models are not available")
    return folder


@pytest.fixture(scope="session")
def extensions_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where torch and DeepSpeed would put anything that they compile."""
    folder = tmp_path_factory.mktemp("torch-extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def one_worker(extensions_dir: Path) -> Iterator[None]:
    """This process alone as a process group, as the workers of a one-worker trial are.

    One for all tests: DeepSpeed remembers the first one that it sees in a process.
    """
    import torch

    from modpo.training.process_group import process_group

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with process_group():
        yield
    torch.set_num_threads(threads)
