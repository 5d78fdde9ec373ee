from __future__ import annotations
def test_x(two_workers): pass
