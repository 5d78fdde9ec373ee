"""An S3 of this machine: moto's server in a process of its own, which every client finds by its environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 60.0
MOTO = ("-m", "moto.server")
CLIENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def served_store(log: Path, *, server: tuple[str, ...] = MOTO) -> Iterator[None]:
    """An empty store for the length of a block, found by this process and those that it starts.

    Args:
        log: file for what the server says.
        server: what Python is to run, with `-H HOST -p PORT` behind it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        command = [sys.executable, "-W", "ignore", *server, "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONWARNINGS": "ignore"}
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/moto-api/", process, log)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {"AWS_ENDPOINT_URL": url, **CLIENT}.items():
                    patch.setenv(name, value)
                yield
        finally:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the store never came up: {log.read_text()}")
