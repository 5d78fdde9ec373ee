"""Metrics on disk, and libraries that hold their tongue."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpo.artifacts import ask_guards

QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DEEPSPEED_LOG_LEVEL": "error",
}


@dataclass(frozen=True)
class MetricsFile:
    """One JSON object a line; a line that a dying process cut short is left as it is and skipped by readers."""

    path: Path

    def append(self, row: Mapping[str, Any]) -> None:
        ask_guards(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def quiet_environment() -> None:
    """Switches off telemetry and progress bars of the libraries, before any of them is imported."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not Path("/proc/driver/nvidia").exists():
        # DeepSpeed, which transformers imports, otherwise warns in every process that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def quiet_libraries() -> None:
    """Silences notices that a user cannot act on; warnings of modpo itself stay."""
    quiet_environment()
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in ("transformers", "DeepSpeed", "deepspeed", "peft"):
        logging.getLogger(library).setLevel(logging.ERROR)
    # transformers draws its bars whatever its log level; only a process that has it loaded anyway calls this.
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.disable_progress_bar()
