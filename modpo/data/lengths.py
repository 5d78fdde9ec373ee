"""How long the texts of one source are, in tokens."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from modpo.data.tokenize import EncodedPair

PERCENTILES = (50, 95, 100)


class Lengths:
    """Collects token counts, twelve bytes a pair."""

    def __init__(self) -> None:
        self._counts = {name: array("i") for name in ("prompt", "chosen", "rejected")}

    def add(self, encoded: EncodedPair) -> None:
        for name, tokens in zip(
            self._counts, (encoded.prompt_ids, encoded.chosen_ids, encoded.rejected_ids), strict=True
        ):
            self._counts[name].append(len(tokens))

    def as_dict(self) -> dict[str, Any]:
        """Percentiles of each part, and the share of pairs whose chosen response is the longer; empty without pairs."""
        if not self._counts["prompt"]:
            return {}
        counts = {name: np.array(values) for name, values in self._counts.items()}
        gaps = counts["chosen"] - counts["rejected"]
        percentiles = {
            name: {str(p): int(np.percentile(values, p, method="higher")) for p in PERCENTILES}
            for name, values in counts.items()
        }
        return {**percentiles, "longer_chosen": float(np.mean(gaps > 0) + np.mean(gaps == 0) / 2)}
