"""A job's log over connections that break, from a real server of web sockets; and what the job's end means."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from modpo.errors import SetupError
from modpo.orchestration import jobs
from modpo.orchestration.jobs import Job, exit_status_of, follow
from modpo.orchestration.jobs_api import ADDRESS_VARIABLE, connect

# Ray's client says so to aiohttp.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")

JOB = "small-1"
LINES = ("one\n", "two\n", "three: grün 🦊\n", "four\n")
OVER = Job(JOB, "small", "/mnt/runs/small", "FAILED", None, None, None, "killed")


@dataclass
class Log:
    """Sends one line more on each connection and breaks it, until all lines are out and the job is over."""

    connections: int = 0
    stays_away: bool = False
    falls_silent: bool = False
    end: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def is_over(self) -> bool:
        return self.connections > len(LINES)

    async def tail(self, request: Any) -> Any:
        from aiohttp import web

        self.connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for line in LINES[: self.connections]:
            await socket.send_str(line)
        if self.is_over():
            await socket.close()
        elif self.falls_silent:
            await self.end.wait()
        else:
            await asyncio.sleep(0.02)
            request.transport.abort()
        return socket

    async def info(self, _: Any) -> Any:
        from aiohttp import web

        if self.stays_away:
            raise web.HTTPBadGateway
        status = {"status": "FAILED", "driver_exit_code": 5} if self.is_over() else {"status": "RUNNING"}
        return web.json_response({"type": "SUBMISSION", "submission_id": JOB, "entrypoint": "x", **status})

    async def version(self, _: Any) -> Any:
        from aiohttp import web

        return web.json_response({"ray_version": "2.60.0"})

    async def start(self) -> Any:
        from aiohttp import web

        app = web.Application()
        app.router.add_get(f"/api/jobs/{JOB}/logs/tail", self.tail)
        app.router.add_get(f"/api/jobs/{JOB}", self.info)
        app.router.add_get("/api/version", self.version)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    pytest.importorskip("aiohttp", reason="the Jobs API needs ray[default]: install modpo[cluster]")
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://127.0.0.1:1")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    server = Log()
    runner = server.loop.run_until_complete(server.start())
    thread = threading.Thread(target=server.loop.run_forever)
    thread.start()
    yield server
    server.loop.call_soon_threadsafe(server.end.set)
    server.loop.call_soon_threadsafe(server.loop.stop)
    thread.join()
    server.loop.run_until_complete(runner.cleanup())
    server.loop.close()


def test_every_line_is_shown_once_though_the_connection_breaks_behind_each(log: Log) -> None:
    shown: list[str] = []
    job = follow(connect(log.address), JOB, shown.append)
    assert "".join(shown) == "".join(LINES)
    assert log.connections == len(LINES) + 1
    assert exit_status_of(job) == 5


@pytest.mark.timeout(60)
def test_a_connection_that_falls_silent_is_opened_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.2)
    log.falls_silent = True
    shown: list[str] = []
    assert follow(connect(log.address), JOB, shown.append).exit_status == 5
    assert "".join(shown) == "".join(LINES)


def test_a_cluster_that_stays_away_is_told_from_a_job_that_failed(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOST_PATIENCE_S", 0.1)
    log.stays_away = True
    with pytest.raises(SetupError, match=r"MS-420(.|\n)*the job itself goes on(.|\n)*modpo logs small-1 --follow"):
        follow(connect(log.address), JOB, lambda _: None)


class TestExitStatus:
    @pytest.mark.parametrize("status", [2, 3, 4, 5, 6, 130, 1])
    def test_that_of_the_job_is_passed_on(self, status: int) -> None:
        assert exit_status_of(replace(OVER, exit_status=status)) == status

    def test_success_and_being_stopped(self) -> None:
        assert exit_status_of(replace(OVER, status="SUCCEEDED", exit_status=0)) == 0
        assert exit_status_of(replace(OVER, status="STOPPED")) == 130

    @pytest.mark.parametrize("status", [None, -9])
    def test_a_job_without_one_is_no_success_and_says_why(self, status: int | None) -> None:
        with pytest.raises(SetupError, match=r"MS-418(.|\n)*killed"):
            exit_status_of(replace(OVER, exit_status=status))
