"""No test talks to another machine, and the fixture that sees to it works."""

from __future__ import annotations

import os
import socket

import pytest


def test_a_connection_to_another_machine_is_refused(blocked_network: type[Exception]) -> None:
    """192.0.2.1 is reserved for documentation: nobody answers there, and nobody is asked."""
    with socket.socket() as stream, pytest.raises(blocked_network, match=r"192\.0\.2\.1:80"):
        stream.connect(("192.0.2.1", 80))
    with pytest.raises(blocked_network):
        socket.create_connection(("192.0.2.1", 443), timeout=1)


def test_this_machine_may_talk_to_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as stream:
        stream.connect(server.getsockname())


def test_hub_libraries_know_that_they_are_offline() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HOME"] == constants.HF_HOME
