"""Prints docs/data.md: `python -m modpo.data.named > docs/data.md`."""

from __future__ import annotations

import sys

from modpo.data.named.page import data_page
from modpo.data.named.registry import NAMED_DATASETS

if __name__ == "__main__":
    sys.stdout.write(data_page(NAMED_DATASETS))
