"""What whoever watches over work hears of it."""

from __future__ import annotations

import pytest

from modpo import watch


class Ear:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.beats: list[float | None] = []
        self.num_kept = 0

    def beat(self, usual_s: float | None) -> None:
        self.beats.append(usual_s)

    def kept(self) -> None:
        self.num_kept += 1

    def must_leave(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("modpo.watch.time.monotonic", lambda: now[0])
    return now


def test_a_rhythm_is_known_after_three_gaps_and_is_their_median(now: list[float]) -> None:
    """The first batch took long, as kernels were compiled: it says nothing of the others."""
    ear = Ear()
    with watch.watched_by(ear):
        for item in watch.each([100.0, 2.0, 4.0, 300.0, 2.0]):
            now[0] += item
    assert ear.beats == [None, None, None, 4.0, 3.0, None], "behind the last one nobody knows what comes"


def test_a_loop_that_breaks_off_says_so(now: list[float]) -> None:
    ear = Ear()

    def break_off() -> None:
        for number in watch.each(range(10)):
            now[0] += 1
            if number == 6:
                raise ZeroDivisionError

    with watch.watched_by(ear), pytest.raises(ZeroDivisionError):
        break_off()
    assert ear.beats[-2:] == [1.0, None]


def test_a_rest_is_no_gap(now: list[float]) -> None:
    """Five seconds a step, and an hour for a checkpoint."""
    ear, rhythm = Ear(), watch.Rhythm()
    with watch.watched_by(ear):
        for step in range(8):
            now[0] += 5
            rhythm.beat()
            if step == 4:
                rhythm.rest()
                now[0] += 3600
    assert ear.beats[-3:] == [5.0, 5.0, 5.0]


def test_without_a_listener_nothing_happens_and_nobody_must_leave() -> None:
    assert list(watch.each("abc")) == ["a", "b", "c"]
    watch.kept()
    assert not watch.must_leave()
    with watch.watched_by(Ear()):
        assert watch.must_leave()
    assert not watch.must_leave()
