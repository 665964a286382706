"""Addresses that are not Kubeflow Pipelines, or do not let one in: one line each, with what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from small_servers import served
from typer.testing import CliRunner

from cliptea_pipeline.cli import app

PAGE = ("text/html", b"<!doctype html><title>Log in</title>")
FORBIDDEN = ("application/json", b'{"code": 7, "message": "User is not authorized"}')


@contextmanager
def serving(code: int, kind: str, body: bytes, location: str = "") -> Iterator[str]:
    """A server that always gives the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

    with served(Handler) as address:
        yield address


def submit(endpoint: str) -> str:
    ended = CliRunner().invoke(app, ["submit", "--preset", "smoke", "--endpoint", endpoint])
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    return ended.output


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, *PAGE), "returns a web page, perhaps a login, .* behind a login, set KFP_TOKEN or use a port-forward"),
        ((404, *PAGE), "http\S+ does not serve version 2 of the Kubeflow Pipelines API; check --endpoint"),
        (
            (403, *FORBIDDEN),
            r"denies access \(403: User is not authorized\); expected a token .*; set KFP_TOKEN and --namesp",
        ),
        ((401, *PAGE), r"denies access \(401\); expected a token of a user"),
        ((502, *PAGE), "answers 502: Bad Gateway"),
    ],
)
def test_a_server_that_is_something_else_or_refuses(answer, says):
    with serving(*answer) as url:
        assert re.search(says, submit(url))


def test_a_login_that_one_is_sent_to():
    with serving(200, *PAGE) as login, serving(302, *PAGE, login) as url:
        assert f"{url} returns a web page, perhaps a login" in submit(url)


def test_https_where_there_is_none_or_with_an_unknown_ca():
    with serving(200, *PAGE) as url:
        told = submit(url.replace("http:", "https:"))
    assert "(SSLError)" in told
    assert "for a company's CA, set SSL_CERT_FILE" in told


def test_an_address_without_a_scheme_is_not_guessed_at():
    ended = CliRunner().invoke(app, ["submit", "--preset", "smoke", "--endpoint", "localhost:8080"])
    assert (ended.exit_code, ended.output.count("\n")) == (2, 1)
    assert "'localhost:8080' has no scheme; expected http://localhost:8080 or https://localhost:8080" in ended.output


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://nowhere.invalid", "unknown host name"),
        ("http://127.0.0.1:9", "nothing is listening there"),
        ("http://[", "LocationParseError"),
    ],
)
def test_an_address_that_leads_nowhere(url, cause):
    assert f"cannot be reached at {url} ({cause})" in submit(url)
