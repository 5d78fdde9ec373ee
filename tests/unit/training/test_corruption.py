"""Whatever happens to a file of a checkpoint: it is seen, the one before is taken, and nothing wrong is ever loaded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modpo.artifacts import MANIFEST, is_valid
from modpo.training.checkpoint import Checkpoints
from tests.acceptance.bits import differing
from tests.unit.training.states import of_two_ranks, state

FILES = (
    *("parameters.safetensors", "moments.safetensors", "rng-0.safetensors", "rng-1.safetensors"),
    *("state.json", MANIFEST),
)
HOLE = 4096

Damage = Callable[[Path], object]


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)


def make_hole(path: Path) -> None:
    """Zeros where a block of the disk was lost; of a small file all of it."""
    content = bytearray(path.read_bytes())
    start = max(0, (len(content) - HOLE) // 2)
    content[start : start + HOLE] = bytes(len(content[start : start + HOLE]))
    path.write_bytes(content)


def of_the_step_before(path: Path) -> None:
    shutil.copy(path.parent.parent / "step_000010" / path.name, path)


DAMAGES: dict[str, Damage] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit": flip_bit,
    "hole": make_hole,
    "missing": Path.unlink,
    "of another step": of_the_step_before,
}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return of_two_ranks(tmp_path / "checkpoints")


def refused(checkpoints: Checkpoints, damaged: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Checks that step 10 is taken in place of a folder, which is then gone for good; returns what was said."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest_valid()
    assert newest is not None and newest.name == "step_000010"
    assert differing(checkpoints.load(newest).parameters, state(10, size=64).parameters) == 0
    (said,) = caplog.messages
    assert said.startswith(f"checkpoint {damaged} is damaged or incomplete (") and said.endswith(" to step_000010")
    (kept,) = damaged.parent.glob(f".{damaged.name}.bad-*")
    assert str(kept) in said and not damaged.exists()
    caplog.clear()
    assert checkpoints.newest_valid() == newest and not caplog.messages, "nobody looks at it a second time"
    return said


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_every_damage_of_every_file(
    checkpoints: Checkpoints, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.random.fork_rng():
        for step in (10, 20):
            newer = checkpoints.save(state(step, size=64))
            torch.rand(1)
    before = (newer / name).read_bytes()
    DAMAGES[damage](newer / name)
    assert not (newer / name).is_file() or (newer / name).read_bytes() != before
    said = refused(checkpoints, newer, caplog)
    assert MANIFEST in said or name in said or (name == MANIFEST and "has other bytes" in said)
    again = checkpoints.save(state(20, size=64))
    assert checkpoints.newest_valid() == again and is_valid(again), "the step is taken again, and kept"


def test_files_of_two_ranks_exchanged(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20):
        newer = checkpoints.save(state(step, size=64))
    first, second = newer / "rng-0.safetensors", newer / "rng-1.safetensors"
    one, other = first.read_bytes(), second.read_bytes()
    assert one != other
    first.write_bytes(other)
    second.write_bytes(one)
    assert "rng-0.safetensors has other bytes" in refused(checkpoints, newer, caplog)


def test_a_whole_checkpoint_of_another_training(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every byte of it is right; it is only not ours."""
    checkpoints.save(state(10, size=64))
    other = of_two_ranks(tmp_path / "other", "another trial").save(state(20, size=64))
    here = checkpoints.root / other.name
    shutil.copytree(other, here)
    assert "it is of 'another trial'" in refused(checkpoints, here, caplog)


def test_a_whole_checkpoint_of_another_step(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    older = checkpoints.save(state(10, size=64))
    renamed = checkpoints.root / "step_000030"
    shutil.copytree(older, renamed)
    assert "it is of step 10" in refused(checkpoints, renamed, caplog)


def test_one_of_a_rank_fewer_than_it_says(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    """A manifest that is whole, of a folder that lacks the random state of a rank."""
    from modpo.artifacts import commit_directory

    older = checkpoints.save(state(10, size=64))
    aside, newer = checkpoints.root / ".aside", checkpoints.root / "step_000020"
    shutil.copytree(older, aside)
    (aside / MANIFEST).unlink()
    (aside / "rng-1.safetensors").unlink()
    commit_directory(aside, newer, {"training": "trial", "step": 20, "world_size": 2})
    assert "it has no rng-1.safetensors" in refused(checkpoints, newer, caplog)
