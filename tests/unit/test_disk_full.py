"""A disk that is full: the message says where, how much is there and how much is needed, and nothing half is left."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from modpo.disk_space import is_out_of_space

SCRIPT = """
import sys
from pathlib import Path
from modpo.artifacts import create_json, read_json, write_json, writing
from modpo.errors import SetupError
from tests.unit.training.states import of_two_ranks, state

root = Path(sys.argv[1])
checkpoints = of_two_ranks(root / "checkpoints")
checkpoints.save(state(10, size=100))
write_json(root / "point.json", {"step": 10})

def fill_artefact():
    with writing(root / "artefact", {}) as aside:
        (aside / "part").write_bytes(bytes(1_000_000))
        (aside / "rest").write_bytes(bytes(10_000_000))

def save_large():
    checkpoints.save(state(20, size=800))

for fill in (fill_artefact, save_large):
    try:
        fill()
        print("no error")
    except SetupError as error:
        (problem,) = error.problems
        print(problem.code, problem.where, problem.got, problem.wanted, sep="|")
(root / "rest").write_bytes(bytes(3_000_000))
for write in (write_json, create_json):
    try:
        write(root / f"{write.__name__}.json", list(range(300_000)))
        print("no error")
    except SetupError as error:
        print(error.problems[0].code, error.problems[0].wanted, sep="|")
(root / "rest").unlink()
newest = checkpoints.newest_valid()
print(newest.name, checkpoints.load(newest).step, read_json(root / "point.json"))
print(sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name.startswith(".")))
"""


def test_what_is_written_to_a_small_disk(tmp_path: Path, repository: Path) -> None:
    """A file system of 4 MiB, which this process alone sees."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system of his own")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1" {disk}', sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    artefact, checkpoint, *documents, newest, hidden = done.stdout.splitlines()
    code, where, got, wanted = artefact.split("|")
    assert code == "MS-421" and Path(where).parent == disk
    assert got.startswith("[Errno 28] No space left on device; ") and got.endswith(" of 4194304 bytes free")
    assert wanted == ""
    code, where, got, wanted = checkpoint.split("|")
    assert code == "MS-421" and Path(where).parent == disk / "checkpoints"
    # Two matrices of moments for one of parameters, all float32, vectors of 2, and the random states of two ranks.
    assert int(wanted.removesuffix(" bytes")) == 3 * 4 * (800 * 800 + 2) + 2 * 5056
    size = len("[\n") + sum(len(f" {number},\n") for number in range(300_000)) - 1 + len("]")
    assert documents == [f"MS-421|{size} bytes"] * 2
    assert newest == "step_000010 10 {'step': 10}"
    assert hidden == "[]", "nothing half is left"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("28"), False),
    ],
)
def test_errors_of_a_full_disk(error: Exception, expected: bool) -> None:
    """The third is what safetensors raises, word for word."""
    assert is_out_of_space(error) is expected
