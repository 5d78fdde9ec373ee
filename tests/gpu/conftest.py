"""Tests that need a GPU, each skipped with its reason where there is none.

`MODPO_GPU_TESTS_ON_CPU=1` runs those that say nothing about a GPU's own memory or libraries on the CPU: it shows that
their code runs, and proves nothing about GPUs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# The small annotated run, as the tests of the engine have it.
from tests.deepspeed.conftest import IGNORED_WARNINGS, run_dir, trajectory

__all__ = ["run_dir", "trajectory"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            for warning in IGNORED_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """Where the tests of this folder run. Asked for by all of them, before anything expensive is made."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if os.environ.get("MODPO_GPU_TESTS_ON_CPU"):
        return torch.device("cpu")
    pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """The GPU itself, for what nothing else has."""
    if device.type != "cuda":
        pytest.skip("no CUDA device, and this is about one's own memory or libraries")
    return device
