"""An S3 that answers a third of all requests with 503 SlowDown, as a busy one does: `python -m tests.flaky_store`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

SHARE = 1 / 3
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def failing(application: Application) -> Application:
    """The same, but for those that it refuses; always the same ones of a sequence."""
    draw = random.Random(0)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/moto-api") and draw.random() < SHARE:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        return application(environ, start_response)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-H", dest="host", required=True)
    parser.add_argument("-p", dest="port", type=int, required=True)
    arguments = parser.parse_args()
    run_simple(arguments.host, arguments.port, failing(DomainDispatcherApplication(create_backend_app)), threaded=True)


if __name__ == "__main__":
    main()
