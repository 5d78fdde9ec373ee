"""Both ways of attending trees, whatever their size: every test of attention is run with each."""

from __future__ import annotations

import pytest

from modpo.kernels import tree_attention


@pytest.fixture(params=[0, 10_000], ids=["tree-by-tree", "one-batch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small trees go as one batch: here none, or all."""
    monkeypatch.setattr(tree_attention, "SMALL_TREE", request.param)
