"""Workers that no cluster could give are refused with the file."""

from __future__ import annotations

from typing import Any

import pytest

from modpo.config import parse_config
from modpo.config.checks import check_config
from tests.sweeps import raw_sweep


@pytest.mark.parametrize(
    "resources",
    [
        {"num_workers": 4, "min_workers": 1},
        {"num_workers": 4, "min_workers": 4},
        {"gpus_per_worker": 0.25},
        {"num_workers": 8, "gpus_per_worker": 1},
        {"num_workers": 2, "gpus_per_worker": 0},
        {"gpus_per_worker": 2},
    ],
)
def test_what_can_be_is_accepted(resources: dict[str, Any]) -> None:
    assert check_config(parse_config(raw_sweep(resources=resources))) == []


@pytest.mark.parametrize(
    ("resources", "code", "got"),
    [
        ({"num_workers": 2, "min_workers": 3}, "MS-163", "3, and num_workers is 2"),
        ({"num_workers": 2, "gpus_per_worker": 0.5}, "MS-164", "0.5 for each of 2 workers"),
        ({"gpus_per_worker": 1.5}, "MS-165", "1.5"),
    ],
)
def test_what_cannot_is_refused(resources: dict[str, Any], code: str, got: str) -> None:
    (problem,) = check_config(parse_config(raw_sweep(resources=resources)))
    assert (problem.code, problem.got) == (code, got)
