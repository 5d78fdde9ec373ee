"""The way to a cluster's Jobs API: its address, our token, and nothing sent to a cluster that is open to everyone."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modpo.errors import InputError, Problem, SetupError, shown

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ANSWER_TIMEOUT_S = 15.0
TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
CLOSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def choose_address(option: str | None, environment: Mapping[str, str]) -> str:
    """The URL of the Jobs API: the option, else Ray's own variable, else the end of a tunnel on this machine.

    Raises:
        InputError: it is no http or https URL.
    """
    given = option or environment.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    address = (given if "://" in given else f"http://{given}").rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise InputError(
            Problem(
                code="MS-195",
                what="an address that is none of a Jobs API",
                where="--address" if option else ADDRESS_VARIABLE,
                # A password may stand in front of the @.
                got=shown(given.rpartition("@")[2]),
                wanted="http://HOST:PORT of the cluster's dashboard",
                remedy="`ray dashboard cluster.yaml` opens a tunnel to it at http://127.0.0.1:8265",
            )
        )
    return address


def is_loopback(address: str) -> bool:
    """Told from the address alone: what a name resolves to is up to others."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect(address: str, *, insecure: bool = False) -> Any:
    """A JobSubmissionClient of a cluster that asks for a token, or that only this machine reaches.

    Args:
        insecure: accept a cluster elsewhere that asks for none.

    Raises:
        SetupError: nobody answers, the token is missing or wrong, or the cluster is open.
    """
    if any(importlib.util.find_spec(package) is None for package in ("aiohttp", "requests")):
        raise SetupError(
            Problem(
                code="MS-416",
                what="the Jobs API needs packages that are not installed here",
                wanted="ray[default]",
                remedy="pip install 'modpo[cluster]'",
            )
        )
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Asked without a token, so that none is sent to whoever listens there.
    is_open = _answers_strangers(address)
    if is_open and not insecure and not is_loopback(address):
        raise SetupError(
            Problem(
                code="MS-414",
                what="the cluster is open: whoever reaches this address can run code on it, and nothing was sent there",
                where=address,
                got="an answer without a token",
                wanted="a cluster in token mode, or a tunnel to one that listens on its loopback",
                remedy="start it with RAY_AUTH_MODE=token (cluster.yaml does), or waive this with --insecure",
            )
        )
    token = None if is_open else find_token(os.environ)
    # Ray lets these variables overrule the address that it is given.
    os.environ[ADDRESS_VARIABLE] = address
    with answering(address):
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)


def find_token(environment: Mapping[str, str]) -> str | None:
    """The token in Ray's own order of places."""
    if token := environment.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.expanduser().read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def answering(address: str) -> Iterator[None]:
    """What the client raises, as errors of ours.

    Raises:
        SetupError: nobody answers, the token is missing or wrong, or the request is refused.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise SetupError(_token_problem(address)) from error
    except OSError as error:  # requests' own errors are of this kind
        raise SetupError(_nobody(address, error)) from error
    except RuntimeError as error:
        raise SetupError(
            Problem(
                code="MS-417",
                what="the cluster refused what it was asked",
                where=address,
                got=last_line(str(error)),
                wanted="a Jobs API of the Ray version that is installed here",
                remedy="see the dashboard or the logs of the head node",
            )
        ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A page elsewhere, such as that of a login, is no answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _answers_strangers(address: str) -> bool:
    """Whether the Jobs API tells its version to someone without a token.

    Raises:
        SetupError: nobody answers, or something that is no Jobs API.
    """
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(f"{address}/api/version", timeout=ANSWER_TIMEOUT_S) as answer:
            if "ray_version" in json.load(answer):
                return True
            got = "another answer"
    except urllib.error.HTTPError as refused:
        with refused:
            if refused.code in CLOSED:
                return False
            got = f"HTTP status {refused.code}"
    except OSError as error:
        raise SetupError(_nobody(address, error)) from error
    except (ValueError, TypeError, HTTPException):
        got = "an answer that is no JSON object"
    raise SetupError(
        Problem(
            code="MS-413",
            what="what answers there is no Jobs API of Ray",
            where=address,
            got=got,
            wanted="the address of a cluster's dashboard, port 8265 unless it was changed",
            remedy="check host and port",
        )
    )


def _token_problem(address: str) -> Problem:
    has_token = find_token(os.environ) is not None
    return Problem(
        code="MS-415",
        what="the cluster refused our token" if has_token else "the cluster asks for a token, and there is none here",
        where=address,
        wanted="the token that the cluster was started with",
        remedy="put it into ~/.ray/auth_token (chmod 600), or name its file in RAY_AUTH_TOKEN_PATH; "
        "RAY_AUTH_TOKEN, where it is set, goes first",
    )


def _nobody(address: str, error: Exception) -> Problem:
    return Problem(
        code="MS-412",
        what="nobody answers at the address of the Jobs API",
        where=address,
        got=last_line(str(getattr(error, "reason", error))),
        wanted="a running cluster with its dashboard",
        remedy=f"start one, open the tunnel (`ray dashboard cluster.yaml`), or name it: --address, {ADDRESS_VARIABLE}",
    )


def last_line(text: str) -> str:
    """The end of a traceback in short; of one line, the line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return shown(lines[-1])[1:-1] if lines else ""
