"""Our client against real HTTP servers that answer as clusters do: open, closed, starting, silent, or none at all."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modpo.errors import ConflictError, InputError, ModpoError, SetupError
from modpo.orchestration.job_environment import JobRequest
from modpo.orchestration.jobs import find_job, list_jobs, next_job_id, submit
from modpo.orchestration.jobs_api import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    choose_address,
    connect,
    find_token,
    is_loopback,
)

TOKEN = "a-token-of-this-test"
# The end of the traceback with which Ray 2.60 refuses an id that it knows.
TAKEN = "ValueError: Job with submission_id {} already exists. Please use a different submission_id."
NO_AGENT = "No available agent to submit job, please try again later."


@dataclass
class Cluster:
    """What a small server answers, and what it was asked.

    Attributes:
        token: asked for in every request, where it is not None.
        busy: how many submissions it refuses for want of an agent.
        faster: jobs that others submit while it looks at ours.
    """

    token: str | None = None
    busy: int = 0
    version: str | None = None
    redirect: str | None = None
    jobs: list[dict[str, Any]] = field(default_factory=list)
    faster: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens_seen: set[str | None] = field(default_factory=set)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    def answer(self, method: str, path: str, authorization: str | None, body: bytes) -> tuple[int, str]:
        self.asked.append(f"{method} {path}")
        self.tokens_seen.add(authorization)
        if self.redirect is not None:
            return 302, ""
        if self.token is not None and authorization != f"Bearer {self.token}":
            return (403 if authorization else 401), "no"
        if path == "/api/version":
            return 200, self.version or json.dumps({"version": "4", "ray_version": "2.60.0"})
        if method == "POST":
            return self._take(json.loads(body))
        return 200, json.dumps(self.jobs)

    def _take(self, job: dict[str, Any]) -> tuple[int, str]:
        if self.busy:
            self.busy -= 1
            return 500, NO_AGENT
        self.jobs, self.faster = self.jobs + self.faster, []
        if job["submission_id"] in {known["submission_id"] for known in self.jobs}:
            return 500, TAKEN.format(job["submission_id"])
        self.submitted.append(job)
        return 200, json.dumps({"job_id": job["submission_id"], "submission_id": job["submission_id"]})


@contextmanager
def serving(cluster: Cluster, host: str = "127.0.0.1") -> Iterator[Cluster]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, text = cluster.answer(self.command, self.path, self.headers.get("Authorization"), body)
            self.send_response(status)
            if cluster.redirect is not None:
                self.send_header("Location", cluster.redirect)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        cluster.address = f"http://{host}:{server.server_address[1]}"
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder without a token, and no address or proxy from outside."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://127.0.0.1:1")  # Ray would let it overrule any other
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def own_name() -> str:
    """Of this machine: no loopback by name, and reached without a network."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        pytest.skip(f"this machine cannot resolve its own name, {name}")
    return name


def code_of(call: Callable[[], object], kind: type[ModpoError] = SetupError) -> str:
    with pytest.raises(kind) as refused:
        call()
    (problem,) = refused.value.problems
    assert problem.remedy
    assert TOKEN not in str(refused.value)
    return problem.code


def job_json(job_id: str, *, run: str | None = "small", path: str = "/mnt/runs/small", **more: Any) -> dict[str, Any]:
    metadata = {} if run is None else {"modpo_run": run, "modpo_run_path": path}
    status = {"status": "RUNNING", "start_time": 1_700_000_000_000, **more}
    return {"type": "SUBMISSION", "submission_id": job_id, "entrypoint": "x", "metadata": metadata, **status}


class TestAddress:
    def test_option_before_variable_before_tunnel(self) -> None:
        environment = {ADDRESS_VARIABLE: "http://head:8265", "RAY_ADDRESS": "ray://other:10001"}
        assert choose_address("https://mine:1/", environment) == "https://mine:1"
        assert choose_address(None, environment) == "http://head:8265"
        assert choose_address(None, {"RAY_ADDRESS": "ray://other:10001"}) == DEFAULT_ADDRESS
        assert choose_address("head:8265", {}) == "http://head:8265"

    @pytest.mark.parametrize("address", ["ray://head:10001", "http://", "ftp://head", "http://me:c4n4ry@head:8265"])
    def test_what_is_no_jobs_api_is_refused(self, address: str) -> None:
        with pytest.raises(InputError, match="MS-195") as refused:
            choose_address(address, {})
        assert "c4n4ry" not in str(refused.value)

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            *((f"http://{host}:8265", True) for host in ("127.0.0.1", "127.8.8.8", "[::1]", "localhost")),
            *((f"http://{host}:8265", False) for host in ("10.0.0.1", "0.0.0.0", "[::]", "head", "localhost.evil.org")),
        ],
    )
    def test_loopback_is_told_from_the_address(self, address: str, *, expected: bool) -> None:
        assert is_loopback(address) is expected


class TestToken:
    def test_places_in_rays_order(self, tmp_path: Path) -> None:
        assert find_token({}) is None
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
        (tmp_path / "named").write_text("of-path\n")
        assert find_token({}) == "of-home"
        assert find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}) == "of-path"
        assert find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named"), "RAY_AUTH_TOKEN": "direct"}) == "direct"

    def test_without_one_a_closed_cluster_refuses_us(self) -> None:
        with (
            serving(Cluster(token=TOKEN)) as cluster,
            pytest.raises(SetupError, match="RAY_AUTH_TOKEN_PATH") as refused,
        ):
            connect(cluster.address)
        assert "MS-415" in str(refused.value)
        assert "there is none here" in str(refused.value)
        assert "~/.ray/auth_token" in str(refused.value)

    def test_a_wrong_one_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        with serving(Cluster(token=TOKEN)) as cluster, pytest.raises(SetupError, match="MS-415") as refused:
            connect(cluster.address)
        assert "refused our token" in str(refused.value)
        assert "Bearer" not in str(refused.value)

    def test_the_right_one_of_the_home_folder_is_enough(self, tmp_path: Path) -> None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
        with serving(Cluster(token=TOKEN)) as cluster:
            assert list_jobs(connect(cluster.address)) == []
            assert cluster.tokens_seen == {None, f"Bearer {TOKEN}"}, "the first question is asked without it"


class TestOpenClusters:
    def test_one_elsewhere_is_refused_and_gets_nothing(self, own_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with serving(Cluster(), own_name) as cluster:
            assert code_of(lambda: connect(cluster.address)) == "MS-414"
            assert cluster.asked == ["GET /api/version"]
            assert cluster.tokens_seen == {None}

    def test_insecure_waives_it_and_sends_no_token(self, own_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with serving(Cluster(), own_name) as cluster:
            assert list_jobs(connect(cluster.address, insecure=True)) == []
            assert cluster.tokens_seen == {None}

    def test_one_of_this_machine_or_behind_a_tunnel_is_accepted(self) -> None:
        with serving(Cluster()) as cluster:
            assert connect(cluster.address).get_address() == cluster.address

    def test_one_elsewhere_that_asks_for_a_token_is_accepted(
        self, own_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with serving(Cluster(token=TOKEN), own_name) as cluster:
            assert list_jobs(connect(cluster.address)) == []


class TestNoCluster:
    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        assert code_of(lambda: connect(f"http://127.0.0.1:{port}")) == "MS-412"

    @pytest.mark.parametrize("text", ["<html>", "[]", "{}", "5"])
    def test_something_else_listens(self, text: str) -> None:
        with serving(Cluster(version=text)) as cluster:
            assert code_of(lambda: connect(cluster.address)) == "MS-413"

    def test_something_that_speaks_no_http_listens(self) -> None:
        """As at the port of Ray's control store, which is next to this one on every page."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def greet() -> None:
                stream, _ = server.accept()
                with stream:
                    stream.recv(1000)
                    stream.sendall(b"220 not what you think\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            assert code_of(lambda: connect(f"http://127.0.0.1:{server.getsockname()[1]}")) == "MS-413"
            thread.join()

    def test_a_page_that_leads_elsewhere_is_not_followed(self) -> None:
        with serving(Cluster()) as other, serving(Cluster(redirect=f"{other.address}/api/version")) as cluster:
            assert code_of(lambda: connect(cluster.address)) == "MS-413"
            assert other.asked == []


class TestSubmission:
    REQUEST = JobRequest("small", "/mnt/runs/small", "python -m modpo run s.yaml", {"env_vars": {"A": "b"}}, ())

    def test_a_cluster_whose_agents_still_start_is_asked_again(self) -> None:
        with serving(Cluster(busy=2)) as cluster:
            job_id = submit(connect(cluster.address), self.REQUEST, pause_s=0.01)
            (sent,) = cluster.submitted
        assert sent["submission_id"] == job_id
        assert sent["entrypoint"] == self.REQUEST.entrypoint
        assert sent["metadata"] == {"modpo_run": "small", "modpo_run_path": "/mnt/runs/small"}
        assert sent["runtime_env"]["env_vars"] == {"A": "b"}

    def test_patience_has_an_end(self) -> None:
        with serving(Cluster(busy=9)) as cluster:
            client = connect(cluster.address)
            assert code_of(lambda: submit(client, self.REQUEST, patience_s=0.1, pause_s=0.01)) == "MS-417"
            assert 2 <= cluster.asked.count("POST /api/jobs/") < 9, "0.01, 0.02, 0.04 s, and no time for 0.08"

    @pytest.mark.parametrize("status", ["RUNNING", "PENDING"])
    def test_a_run_that_is_at_work_is_not_submitted_again(self, status: str) -> None:
        with serving(Cluster(jobs=[job_json("small-1", status=status)])) as cluster:
            client = connect(cluster.address)
            with pytest.raises(ConflictError, match=rf"MS-313(.|\n)*small-1 is {status}") as refused:
                submit(client, self.REQUEST)
            assert refused.value.exit_status == 3
            assert cluster.submitted == []

    @pytest.mark.parametrize(
        "job",
        [
            *(job_json("small-1", status=status) for status in ("SUCCEEDED", "FAILED", "STOPPED")),
            job_json("small-1", path="/mnt/elsewhere/small"),
            job_json("small-1", run=None),
        ],
    )
    def test_ended_and_other_jobs_are_in_nobodys_way(self, job: dict[str, Any]) -> None:
        with serving(Cluster(jobs=[job])) as cluster:
            submit(connect(cluster.address), self.REQUEST)
            assert len(cluster.submitted) == 1

    def test_ids_follow_from_the_run_and_count_its_jobs(self) -> None:
        """SHA-256 of `"/mnt/runs/small"`, quotes included, begins with these eight characters (`sha256sum`)."""
        assert next_job_id("small", "/mnt/runs/small", []) == "small-479826ca-1"
        earlier = ["small-479826ca-2", "small-479826ca-10", "small-479826ca-x", "small-0123abcd", "small-0123abcd-77"]
        assert next_job_id("small", "/mnt/runs/small", earlier) == "small-479826ca-11"

    def test_a_job_that_was_faster_is_in_the_way(self) -> None:
        """Both saw a cluster without jobs of the run; Ray takes the id of the first."""
        taken = job_json("small-479826ca-1", status="PENDING")
        with serving(Cluster(faster=[taken])) as cluster:
            client = connect(cluster.address)
            with pytest.raises(ConflictError, match=r"MS-313(.|\n)*small-479826ca-1 is PENDING(.|\n)*--follow"):
                submit(client, self.REQUEST)
            assert cluster.submitted == []

    def test_a_job_that_was_faster_and_is_over_is_followed_by_ours(self) -> None:
        with serving(Cluster(faster=[job_json("small-479826ca-1", status="FAILED")])) as cluster:
            assert submit(connect(cluster.address), self.REQUEST) == "small-479826ca-2"

    def test_somebody_elses_job_of_the_same_id_is_an_error_of_the_cluster(self) -> None:
        with serving(Cluster(jobs=[job_json("small-479826ca-1", run=None)])) as cluster:
            client = connect(cluster.address)
            assert code_of(lambda: submit(client, self.REQUEST)) == "MS-417"


class TestList:
    JOBS = (
        job_json("small-1", start_time=1_000, status="FAILED", end_time=2_000, driver_exit_code=3),
        job_json("small-2", start_time=3_000),
        job_json("other", run=None),
        job_json("wide-1", run="wide", start_time=2_000),
    )

    def test_jobs_of_modpo_the_newest_first(self) -> None:
        with serving(Cluster(jobs=list(self.JOBS))) as cluster:
            found = list_jobs(connect(cluster.address))
        assert [job.job_id for job in found] == ["small-2", "wide-1", "small-1"]
        assert (found[2].status, found[2].exit_status, found[2].is_over) == ("FAILED", 3, True)

    def test_a_job_is_found_by_its_id_and_the_newest_by_its_run(self) -> None:
        with serving(Cluster(jobs=list(self.JOBS))) as cluster:
            client = connect(cluster.address)
            assert find_job(client, "small-1").job_id == "small-1"
            assert find_job(client, "small").job_id == "small-2"
            with pytest.raises(InputError, match=r"MS-196(.|\n)*did you mean 'small-1'"):
                find_job(client, "smal-1")
