"""Addresses that are not Kubeflow Pipelines, or do not let one in: one line each, with what to do."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import kfp_server_api
import pytest
from certificates import self_signed
from small_servers import greeting, served, silent
from typer.testing import CliRunner
from urllib3 import HTTPResponse
from urllib3.exceptions import MaxRetryError, ProtocolError, ReadTimeoutError, SSLError

from cliptea.cluster.kubernetes_api import ClusterError
from cliptea.errors import ConfigError
from cliptea.steps.kfp_inside import api_client, limit_requests
from cliptea_pipeline import checks, cluster_checks, endpoint, looks
from cliptea_pipeline import server_address as addresses
from cliptea_pipeline.cli import app
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.endpoint import Away, Endpoint, EndpointError
from cliptea_pipeline.server_address import address, token, token_in_shell

PAGE = ("text/html", b"<!doctype html><title>Log in</title>")
FORBIDDEN = ("application/json", b'{"code": 7, "message": "User is not authorized"}')


@contextmanager
def serving(code: int, kind: str, body: bytes, location: str = "", certificate: Path | None = None) -> Iterator[str]:
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

    with served(Handler, certificate) as address:
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


def findings(check, *arguments):
    ended = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return [item for item in json.loads(ended.stdout)["findings"] if item["check"] == check]


def test_http_and_https_that_are_mixed_up_and_ca_certificates_that_do_not_fit(bare, monkeypatch, tmp_path):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    def told(url, says, todo):
        shown = submit(url)
        assert re.search(rf"cannot be reached at {url} \({says}\); {todo}$", shown.strip()), shown
        assert "check --endpoint" not in shown  # as if waiting or a port-forward could help
        (found,) = findings("Pipelines", "--endpoint", url)
        assert found["state"] == "missing"
        assert re.search(rf"^{url} cannot be reached \({says}\): {todo}$", found["text"]), found

    pem, ca = self_signed(tmp_path), "set SSL_CERT_FILE to a file with the CA of its certificate"
    with serving(200, *PAGE) as url:
        told(url.replace("http:", "https:"), "the server speaks http and not https", "write its address with http://")
    with greeting(bytes.fromhex("15030300020246")) as place:  # how OpenSSL answers what is not encrypted
        told(f"http://{place}", "the server speaks https and not http", "write its address with https://")
    with serving(200, *PAGE, certificate=pem) as url:
        told(url, r"\[SSL: CERTIFICATE_VERIFY_FAILED\] .*self-signed certificate.*", ca)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        told(url, "the file of CA certificates cannot be read: No such file or directory", ca)
        (tmp_path / "none.pem").write_text("no certificate")
        told(url, ".*no certificate or crl found.*", ca)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert "returns a web page, perhaps a login" in submit(url)


def test_a_gateway_that_says_that_it_speaks_https():
    page = b"<html>400 The plain HTTP request was sent to HTTPS port</html>"
    with serving(400, "text/html", page) as url:
        assert f"cannot be used at {url} (the server speaks https and not http); write its address wi" in submit(url)


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


@pytest.mark.parametrize(
    "command",
    [["submit", "--preset", "smoke"], ["cancel", "run-1"], ["schedule", "--list"]],
    ids=lambda words: words[0],
)
def test_a_server_that_never_answers_is_not_waited_for(command, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT", (0.1, 0.5))
    with silent() as place:
        began = time.monotonic()
        ended = CliRunner().invoke(app, [*command, "--endpoint", f"http://{place}"])
        assert 0.5 < time.monotonic() - began < 30
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert f"Kubeflow Pipelines cannot be reached at http://{place} (no answer in time)" in ended.output


def test_a_server_that_falls_silent_later_is_not_waited_for(pipelines, monkeypatch):
    monkeypatch.setattr(endpoint, "BUSY_TIMEOUT", (0.2, 0.2))
    server = Endpoint()
    with silent() as place:
        api_client(server.client).configuration.host = f"http://{place}"
        for ask in (server.pipeline, lambda: server.experiment("cliptea"), lambda: server.upload(pipeline_file())):
            with pytest.raises(Away, match="no answer in time"):
                ask()


def test_the_names_of_kfp_are_understood(pipelines, monkeypatch):
    pipelines.token = "t"
    monkeypatch.delenv("KFP_ENDPOINT")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", pipelines.url)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "t")
    assert Endpoint().url == pipelines.url
    monkeypatch.setenv("KFP_TOKEN", "other")  # our own names come first
    with pytest.raises(EndpointError, match="denies access"):
        Endpoint()
    monkeypatch.setenv("KFP_ENDPOINT", "http://127.0.0.1:9")
    assert address(None) == "http://127.0.0.1:9"


@pytest.fixture
def notebook(pipelines, monkeypatch, tmp_path):
    """A pod in the cluster of Pipelines, with the file that Kubeflow mounts."""
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KFP_EXISTING_TOKEN",
                 "KUBECONFIG", "CLIPTEA_STORE", "MLFLOW_TRACKING_URI"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(addresses, "INSIDE", pipelines.url)  # whose name only resolves there
    monkeypatch.setattr(addresses, "TOKEN_FILE", str(tmp_path / "mounted"))
    (tmp_path / "namespace").write_text("team\n")
    monkeypatch.setattr("cliptea.cluster.kubernetes_api.NAMESPACE_FILE", tmp_path / "namespace")
    (tmp_path / "mounted").write_text("one\n")
    pipelines.token, pipelines.multi_user = "one", True
    return tmp_path / "mounted"


def test_a_notebook_needs_no_variables_and_follows_its_token(pipelines, notebook):
    server = Endpoint()
    assert (server.namespace, server.steps_namespace) == ("team", "team")
    assert server.pipeline() is None
    notebook.write_text("two\n")  # Kubernetes renews it
    pipelines.token = "two"
    assert server.pipeline() is None
    assert server.experiment("cliptea") == "experiments-0"


def test_the_token_of_a_notebook_is_only_for_its_own_cluster(notebook):
    assert token("https://elsewhere.example.com") == ""
    for url in (addresses.INSIDE, "http://ml-pipeline.kubeflow:8888", "http://ml-pipeline.kubeflow.svc:8888"):
        assert token(url) == "one"


def test_a_shell_gets_the_token_from_where_it_is(notebook, monkeypatch):
    assert token_in_shell("https://elsewhere.example.com") == ""
    assert token_in_shell(addresses.INSIDE) == f"$(cat {notebook})"
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "t")
    assert token_in_shell("https://elsewhere.example.com") == token_in_shell(addresses.INSIDE) == "$KFP_EXISTING_TOKEN"
    monkeypatch.setenv("KFP_TOKEN", "t")
    assert token_in_shell(addresses.INSIDE) == "$KFP_TOKEN"


def test_a_kubeconfig_may_lead_to_another_cluster_than_that_of_the_pod(notebook, monkeypatch):
    assert address(None) == addresses.INSIDE
    monkeypatch.setenv("KUBECONFIG", "/another/cluster")
    with pytest.raises(ConfigError, match="no Kubeflow Pipelines endpoint is set"):
        address(None)


@pytest.mark.parametrize(
    ("several", "given", "namespace"), [(True, None, "team"), (False, None, "kubeflow"), (False, "other", "other")]
)
def test_the_namespace_of_the_steps(pipelines, notebook, monkeypatch, several, given, namespace):
    pipelines.multi_user, asked = several, []
    assert Endpoint(None, given).steps_namespace == namespace

    def connect(wanted, timeout):
        asked.append(wanted)
        raise ClusterError("no cluster")

    monkeypatch.setattr(cluster_checks, "connect", connect)
    findings("Kubernetes", *(["--namespace", given] if given else []))
    assert asked == [namespace]


def test_a_cluster_without_pipelines_is_no_failure(notebook, monkeypatch):
    monkeypatch.setattr(addresses, "INSIDE", "http://127.0.0.1:9")
    (found,) = findings("Pipelines")
    assert found["state"] == "cannot tell"
    assert "cannot be reached (nothing is listening there)" in found["text"]
    (found,) = findings("Pipelines", "--endpoint", "http://127.0.0.1:9")
    assert found["state"] == "missing"


def test_a_server_that_is_there_and_denies_access_is_a_failure(pipelines, notebook):
    pipelines.token = "other"
    (found,) = findings("Pipelines")
    assert found["state"] == "missing"


def test_the_address_of_a_run_is_that_of_the_pages(notebook, monkeypatch):
    def submitted():
        ended = CliRunner().invoke(app, ["submit", "--preset", "smoke", "--json"])
        return json.loads(ended.stdout), ended.stderr.splitlines()[-1]

    assert submitted() == ({"run": "runs-0", "address": None}, "run runs-0")
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/pipeline/")
    page = "https://kubeflow.example.com/pipeline/#/runs/details/runs-1"
    assert submitted() == ({"run": "runs-1", "address": page}, f"run {page}")


def test_a_cluster_without_users_needs_no_token(pipelines, notebook, monkeypatch):
    notebook.unlink()
    pipelines.token, pipelines.multi_user = None, False
    assert Endpoint().namespace is None
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(notebook))
    with pytest.raises(
        ConfigError, match=r"the token of .*mounted: it is missing; KF_PIPELINES_SA_TOKEN_PATH .* set KFP_TOKEN"
    ):
        Endpoint()
    ended = CliRunner().invoke(app, ["doctor", "--json"])
    (found,) = [item for item in json.loads(ended.stdout)["findings"] if item["check"] == "Pipelines"]
    assert (ended.exit_code, found["state"]) == (1, "missing")
    assert "KF_PIPELINES_SA_TOKEN_PATH" in found["text"]


def test_a_login_that_comes_while_a_run_is_watched(monkeypatch):
    """As when a session has expired: the gateway answers with its page."""
    with serving(200, *PAGE) as url:
        client = kfp_server_api.ApiClient(kfp_server_api.Configuration(host=url))
        asked = SimpleNamespace(url=url, client=client, asked=nullcontext)
        monkeypatch.setattr(looks, "api_client", lambda client: client)
        with pytest.raises(EndpointError, match="returns a web page, perhaps a login"):
            looks.look(asked, "a-run")


def test_doctor_follows_a_redirect():
    with serving(200, "application/json", b"{}") as place, serving(302, *PAGE, place) as url:
        assert checks._ask(url, {}).data == b"{}"


def test_a_request_is_sent_once():
    """Whatever goes wrong after it was sent: a run may have started."""
    api = kfp_server_api.ApiClient(kfp_server_api.Configuration(host="http://127.0.0.1:9"))
    seen = []
    api.rest_client.pool_manager.request = lambda *place, **options: seen.append(options["retries"])
    limit_requests(api, (1, 1))
    api.rest_client.pool_manager.request("POST", "/")
    (retries,) = seen
    for error in (SSLError("EOF"), ProtocolError("reset"), ReadTimeoutError(None, "/", "late")):
        with pytest.raises((MaxRetryError, type(error))):
            retries.increment("POST", "/", error=error)
    assert not retries.is_retry("GET", 503, has_retry_after=True)
    assert retries.increment("GET", "/", response=HTTPResponse(status=302, headers={"location": "/x"})).total == 2
