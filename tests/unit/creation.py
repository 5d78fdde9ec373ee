"""Who of several gets to create a file, on whatever storage."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modpo.artifacts import create_json, read_json

RACERS = 8


def assert_one_creates(path: Path) -> None:
    """Of eight at once exactly one is told that it was him, and the file is his."""
    start = threading.Barrier(RACERS)

    def create(number: int) -> bool:
        start.wait()
        return create_json(path, number)

    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(create, range(RACERS)))
    assert won.count(True) == 1
    assert read_json(path) == won.index(True)
