"""Checkpoints: everything a resumed training needs, and never a damaged one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modpo.artifacts import MANIFEST, is_valid, read_json
from modpo.core.workload import StepTotals
from modpo.training.checkpoint import KEPT_CHECKPOINTS, Checkpoints, TrainingState
from tests.acceptance.bits import differing

TOTALS = StepTotals(tokens=120, padded_tokens=200, flops=2**60 + 1, device_seconds=1.25, peak_flops=None)
FILES = ("parameters.safetensors", "moments.safetensors", "rng-0.safetensors", "state.json")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "trial")


def state(step: int, *, stopped: bool = False) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    parameters = {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.randn(2, generator=generator)}
    moments = {
        f"{name}.{moment}": tensor * 2 for name, tensor in parameters.items() for moment in ("exp_avg", "exp_avg_sq")
    }
    return TrainingState(step, parameters, moments, stopped, TOTALS)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


class TestRoundTrip:
    @pytest.mark.parametrize("stopped", [False, True])
    def test_state_comes_back_to_the_bit(self, checkpoints: Checkpoints, stopped: bool) -> None:
        folder = checkpoints.save(state(7, stopped=stopped))
        loaded = checkpoints.load(folder)
        assert (loaded.step, loaded.stopped, loaded.totals) == (7, stopped, TOTALS)
        assert differing(loaded.parameters, state(7).parameters) == 0
        assert differing(loaded.moments, state(7).moments) == 0

    def test_random_numbers_go_on_where_they_were(self, checkpoints: Checkpoints) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.rand(10)
            folder = checkpoints.save(state(1))
            undisturbed = torch.rand(5)
            torch.manual_seed(99)
            checkpoints.load(folder)
            assert torch.equal(torch.rand(5), undisturbed)

    def test_saving_draws_no_random_number(self, checkpoints: Checkpoints) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            expected = torch.rand(3)
            torch.manual_seed(0)
            checkpoints.save(state(1))
            assert torch.equal(torch.rand(3), expected)

    def test_a_rank_that_is_new_keeps_its_own_random_state(self, checkpoints: Checkpoints) -> None:
        """Resuming with more workers than before: there is no state of theirs to restore."""
        folder = checkpoints.save(state(1))
        with torch.random.fork_rng():
            torch.manual_seed(5)
            before = torch.get_rng_state()
            Checkpoints(checkpoints.root, "trial", rank=1).load(folder)
            assert torch.equal(torch.get_rng_state(), before)

    def test_tensors_that_are_views_are_saved_as_what_they_show(self, checkpoints: Checkpoints) -> None:
        matrix = torch.arange(6.0).reshape(2, 3)
        folder = checkpoints.save(TrainingState(1, {"t": matrix.T}, {"m": matrix[:, 1]}))
        loaded = checkpoints.load(folder)
        assert loaded.parameters["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert loaded.moments["m"].tolist() == [1, 4]

    def test_nothing_in_a_checkpoint_is_a_pickle(self, checkpoints: Checkpoints) -> None:
        folder = checkpoints.save(state(1))
        assert {path.name for path in folder.iterdir()} == {*FILES, MANIFEST}
        assert set(read_json(folder / MANIFEST)["files"]) == set(FILES)
        for path in folder.iterdir():
            assert not path.read_bytes().startswith((b"\x80", b"PK"))


class TestNewest:
    def test_none_before_the_first(self, checkpoints: Checkpoints) -> None:
        assert checkpoints.newest_valid() is None

    def test_the_latest_by_step_and_not_by_time(self, checkpoints: Checkpoints) -> None:
        folders = {step: checkpoints.save(state(step)) for step in (900, 1000)}
        (folders[900] / "state.json").touch()
        assert checkpoints.newest_valid() == folders[1000]

    @pytest.mark.parametrize("damage", [flip_byte, truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
    @pytest.mark.parametrize("name", [*FILES, MANIFEST])
    def test_a_damaged_one_is_passed_over_aloud(
        self, checkpoints: Checkpoints, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        older, newer = checkpoints.save(state(10)), checkpoints.save(state(20))
        damage(newer / name)
        with caplog.at_level(logging.WARNING):
            assert checkpoints.newest_valid() == older
        assert f"checkpoint {newer} is damaged or incomplete" in caplog.text
        assert checkpoints.load(older).step == 10

    def test_all_damaged_is_a_start_from_the_beginning(self, checkpoints: Checkpoints) -> None:
        for step in (10, 20):
            flip_byte(checkpoints.save(state(step)) / "parameters.safetensors")
        assert checkpoints.newest_valid() is None

    def test_one_that_was_never_committed_is_ignored_and_replaced(self, checkpoints: Checkpoints) -> None:
        """What a killed process leaves: a hidden folder, even if every file in it is whole."""
        older, newer = checkpoints.save(state(10)), checkpoints.save(state(20))
        aside = checkpoints.root / ".step_000030.aside"
        shutil.copytree(newer, aside)
        (aside / "rng-5.safetensors").write_bytes(b"half")
        assert checkpoints.newest_valid() == newer
        again = checkpoints.save(state(30))
        assert not aside.exists()
        assert is_valid(again)
        assert not (again / "rng-5.safetensors").exists()
        assert older != newer

    def test_a_damaged_step_is_written_anew(self, checkpoints: Checkpoints) -> None:
        checkpoints.save(state(10))
        flip_byte(checkpoints.save(state(20)) / "parameters.safetensors")
        again = checkpoints.save(state(20))
        assert checkpoints.newest_valid() == again
        assert differing(checkpoints.load(again).parameters, state(20).parameters) == 0

    def test_only_the_last_few_are_kept(self, checkpoints: Checkpoints) -> None:
        for step in range(1, 6):
            checkpoints.save(state(step))
        names = sorted(path.name for path in checkpoints.root.iterdir())
        assert names == [f"step_{step:06d}" for step in range(6 - KEPT_CHECKPOINTS, 6)]
        assert KEPT_CHECKPOINTS >= 2, "with one, a damaged newest checkpoint would leave nothing"
