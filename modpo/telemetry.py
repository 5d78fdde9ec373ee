"""Metrics on disk, libraries that hold their tongue, and no secret in what is said."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modpo.guards import ask_guards
from modpo.masking import masked
from modpo.storage import stored

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
        line, place = json.dumps(row) + "\n", stored(self.path)
        if place is not None:
            # One process at a time writes it: an object store gets the whole text again.
            place.write((place.read() or b"") + line.encode())
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)


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


class MaskedStream:
    """A text stream that never gets a secret, as far as one stands in a single write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mask_secrets() -> None:
    """Masks secrets in whatever this process prints or logs from now on, by whichever library or reward function."""
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    make = logging.getLogRecordFactory()

    def masked_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        record.msg, record.args = masked(record.getMessage()), None
        if record.exc_info:
            record.exc_text, record.exc_info = masked(logging.Formatter().formatException(record.exc_info)), None
        return record

    logging.setLogRecordFactory(masked_record)


@contextmanager
def secrets_masked() -> Iterator[None]:
    """The same for the length of a block."""
    make = logging.getLogRecordFactory()
    with redirect_stdout(sys.stdout), redirect_stderr(sys.stderr):
        mask_secrets()
        try:
            yield
        finally:
            logging.setLogRecordFactory(make)
