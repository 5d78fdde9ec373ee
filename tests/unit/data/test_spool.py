"""Items on disk come back as they were, in order, by number and by column; nothing is left of them."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pyarrow
import pytest

from modpo.data.spool import BATCH_ROWS, Spool

SCHEMA = pyarrow.schema([("name", pyarrow.string()), ("numbers", pyarrow.list_(pyarrow.float64()))])

Item = tuple[str, tuple[float, ...]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def spool(count: int) -> Spool[Item]:
    spool: Spool[Item] = Spool(SCHEMA, lambda item: item, lambda name, numbers: (name, tuple(numbers)))
    for number in range(count):
        spool.append(item(number))
    return spool


def item(number: int) -> Item:
    return f"ü{number}", (number / 2,) * (number % 3)


@pytest.mark.parametrize("count", [0, 1, BATCH_ROWS - 1, BATCH_ROWS, 2 * BATCH_ROWS, 2 * BATCH_ROWS + 1])
def test_items_come_back_in_order_and_by_number(folder: Path, count: int) -> None:
    items = spool(count)
    assert len(items) == count and bool(items) == (count > 0)
    assert list(items) == list(items) == [item(number) for number in range(count)]
    assert list(items.column("name")) == [f"ü{number}" for number in range(count)]
    for number in {0, count // 2, count - 1} if count else ():
        assert items[number] == item(number)


def test_two_readers_at_once(folder: Path) -> None:
    items = spool(BATCH_ROWS + 5)
    assert list(zip(items, items, strict=True)) == [(item(n), item(n)) for n in range(BATCH_ROWS + 5)]


def test_no_file_is_left_however_a_process_ends(folder: Path) -> None:
    """Somebody's texts: they have no name on the disk at any time."""
    items = spool(BATCH_ROWS)
    assert list(folder.iterdir()) == []
    assert next(iter(items)) == items[0]
    assert list(folder.iterdir()) == []


def test_open_files_go_with_their_spools(folder: Path) -> None:
    gc.collect()  # what other tests have left
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        items = spool(BATCH_ROWS + 1)
        assert len(list(items)) == BATCH_ROWS + 1 and items[0] == item(0)
        del items
    gc.collect()
    assert len(list(Path("/dev/fd").iterdir())) == before
