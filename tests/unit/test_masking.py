"""Secrets are known by their names and their forms, and stand in nothing that is printed or logged."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from modpo.errors import InputError, Problem, root_cause
from modpo.masking import MASK, masked, names_secret, secrets_in
from modpo.telemetry import MaskedStream, secrets_masked

VALUE = "correct horse battery staple"
HF = "hf_" + "AbCdEfGhIjKlMnOp" * 2


@pytest.fixture(autouse=True)
def secret_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_PASSWORD", VALUE)
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token-file")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"it is {VALUE}!", f"it is {MASK}!"),
        (f"token={HF}", f"token={MASK}"),
        ("ghp_" + "a" * 36, MASK),
        ("github_pat_" + "a" * 22, MASK),
        ("AKIA" + "ABCDEFGH12345678", MASK),
        ("https://me:pass@example.org/x", f"https://{MASK}@example.org/x"),
        ("api_key=" + "0123456789" * 4, f"api_key={MASK}"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- end", f"{MASK} end"),
    ],
)
def test_what_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "abc is too short to be hidden", "/home/me/token-file", "hf_model", "risk-averse",
        "ask-me-anything-about-it-all", "https://example.org:8265/x",
        "commit " + "0123456789" * 4, "s3://bucket/key", "max_new_tokens=256",
    ],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    assert masked(text) == text


def test_names() -> None:
    assert [
        name for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "api_key", "DB_PASSWD") if not names_secret(name)
    ] == []
    assert [name for name in ("TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "HOME", "beta") if names_secret(name)] == []


def test_secrets_of_a_tree_by_name_and_by_form() -> None:
    tree = {
        "trackers": {"wandb": {"api_key": "short", "api_key_file": "/etc/key", "project": HF}},
        "evaluation": {"max_new_tokens": "256"},
        "objectives": [{"pairs": {"path": "s3://me:pass@bucket/x"}}],
        "data": {"allow_special_tokens": "off", "key": None},
    }
    assert list(secrets_in(tree)) == [
        "trackers.wandb.api_key",
        "trackers.wandb.project",
        "objectives.0.pairs.path",
    ]


def test_no_error_shows_one() -> None:
    problem = Problem(code="MS-113", what="x", where=f"--set a={VALUE}", got=repr(HF), remedy="y")
    error = InputError(problem)
    for text in (error.render(), str(error), root_cause(error), root_cause(ValueError(f"{VALUE} and {HF}"))):
        assert VALUE not in text
        assert HF not in text


class TestOutput:
    def test_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        with secrets_masked():
            print("before", VALUE, "after")
            print(HF, file=sys.stderr)
        assert capsys.readouterr() == (f"before {MASK} after\n", f"{MASK}\n")

    def test_logs_with_arguments_and_tracebacks(self) -> None:
        stream = io.StringIO()
        logger, handler = logging.getLogger("anybody"), logging.StreamHandler(stream)
        logger.addHandler(handler)
        with secrets_masked():
            try:
                raise ValueError(VALUE)
            except ValueError:
                logger.exception("failed with %s and %d", HF, 7)
            finally:
                logger.removeHandler(handler)
        assert VALUE not in stream.getvalue()
        assert HF not in stream.getvalue()
        assert stream.getvalue().startswith(f"failed with {MASK} and 7\nTraceback")
        assert f"ValueError: {MASK}" in stream.getvalue()

    def test_a_stream_is_otherwise_the_stream(self) -> None:
        inner = io.StringIO()
        stream = MaskedStream(inner)
        assert stream.write(VALUE) == len(VALUE)
        stream.writelines(["a\n", VALUE])
        assert inner.getvalue() == f"{MASK}a\n{MASK}"
        assert stream.isatty() is False


def test_afterwards_everything_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    make = logging.getLogRecordFactory()
    with secrets_masked():
        pass
    print(VALUE)
    assert capsys.readouterr().out == f"{VALUE}\n"
    assert logging.getLogRecordFactory() is make
