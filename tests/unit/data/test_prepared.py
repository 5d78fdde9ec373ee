"""What is read back is whole."""

from __future__ import annotations

import pytest

from modpo.data.prepared import check_coverage
from modpo.errors import InternalError


def test_coverage_names_the_first_missing_rows() -> None:
    check_coverage("rewards", wanted=["a", "b"], present={"a", "b", "c"})
    with pytest.raises(InternalError) as caught:
        check_coverage("rewards", wanted=[f"p{n}" for n in range(13)], present={"p0"})
    (problem,) = caught.value.problems
    assert problem.what == "the rewards table lacks 12 of 13 rows"
    assert problem.got == "first missing: " + ", ".join(f"p{n}" for n in range(1, 11))
