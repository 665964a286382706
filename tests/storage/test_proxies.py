"""S3 through a proxy that the environment names."""

import base64
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from small_servers import served

from cliptea.errors import StorageError
from cliptea.storage.proxies import proxy_for
from cliptea.storage.s3_store import S3Store

HOST = "s3.example.test"  # which no name server knows


@pytest.fixture
def asked():
    """A proxy that answers every request itself. What it is asked for, and by whom."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers.get("Proxy-Authorization")))
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def do_CONNECT(self):
            requests.append((self.path, self.headers.get("Proxy-Authorization")))
            self.send_error(407)

    with served(Handler) as address:
        requests.append(urlsplit(address).port)
        yield requests


@pytest.fixture
def refusing():
    """A proxy that answers every request itself with the `status`, at the `address`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(proxy.status)

        do_HEAD = do_GET

    with served(Handler) as address:
        proxy = SimpleNamespace(address=address.removeprefix("http://"), status=200)
        yield proxy


@pytest.fixture
def far(environment):
    """A server that only a proxy reaches."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        environment.delenv(name, raising=False)
        environment.delenv(name.lower(), raising=False)
    environment.setenv("AWS_REGION", "us-east-1")
    environment.setenv("CLIPTEA_PATIENCE", "0")
    environment.setenv("CLIPTEA_S3_ENDPOINT", f"http://{HOST}:8333")
    return environment


def store():
    return S3Store("bucket", "folder")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_is_used_with_its_login(far, asked, name, scheme):
    port = asked.pop()
    if name.isupper():  # which urllib ignores in a CGI script alone
        far.delenv("http_proxy", raising=False)
    far.setenv(name, f"{scheme}me:h%40sh@127.0.0.1:{port}")
    assert store().get("k") == b"hello"
    login = "Basic " + base64.b64encode(b"me:h@sh").decode()
    assert asked == [(f"http://{HOST}:8333/bucket/folder/k", login)]


def test_https_makes_a_tunnel_and_a_proxy_that_refuses_is_one_line_without_its_password(far, asked):
    port = asked.pop()
    far.setenv("CLIPTEA_S3_ENDPOINT", f"https://{HOST}")
    far.setenv("HTTPS_PROXY", f"http://me:hush@127.0.0.1:{port}")
    with pytest.raises(StorageError, match=r"the proxy does not connect: .*407") as caught:
        store().get("k")
    assert [path for path, _ in asked] == [f"{HOST}:443"]
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("excluded", [HOST, ".example.test", f"other,{HOST}:8333", "*"])
def test_no_proxy_excludes_a_server(far, asked, excluded):
    far.setenv("HTTP_PROXY", f"http://127.0.0.1:{asked.pop()}")
    far.setenv("NO_PROXY", excluded)
    with pytest.raises(StorageError, match="S3 cannot be reached"):
        store().get("k")
    assert asked == []


@pytest.mark.parametrize(
    "wrong",
    ["socks5://me:hush@127.0.0.1:1", "http://me:hush@:1", "http://me:hush@host:port", "http://me:hush日@host:1"],
)
def test_what_is_no_proxy_is_one_line_without_its_password(far, wrong):
    far.setenv("HTTP_PROXY", wrong)
    with pytest.raises(StorageError, match=rf"HTTP_PROXY is not the address of a proxy.*{HOST} to NO_P") as caught:
        store().get("k")
    assert "hush" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_named(far):
    far.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="the proxy does not connect: Connection refused"):
        store().get("k")


@pytest.mark.parametrize(
    ("excluded", "address", "direct"),
    [
        ("", "http://localhost:8333", True),
        ("", "http://127.0.0.1:8333", True),
        ("", "http://[::1]:9000", True),
        ("", "http://cliptea-s3:8333", True),
        ("", "http://10.96.3.4:8333", False),
        ("", "http://[2001:db8::1]:9000", False),
        ("10.0.0.0/8,.svc,.cluster.local", "http://10.96.3.4:8333", True),
        ("10.0.0.0/8,.svc,.cluster.local", "http://11.96.3.4:8333", False),
        ("10.0.0.0/8,.svc,.cluster.local", "http://cliptea-s3.team.svc:8333", True),
        ("10.0.0.0/8,.svc,.cluster.local", "http://s3.example.test:8333", False),
        ("10.96.3.4:8333", "http://10.96.3.4:8333", True),
        ("10.96.3.4:8333", "http://10.96.3.4:9000", False),
        ("2001:db8::1", "http://[2001:db8::1]:9000", True),
    ],
)
def test_what_is_near_or_excluded_needs_no_proxy(far, excluded, address, direct):
    far.setenv("HTTP_PROXY", "http://proxy:3128")
    far.setenv("NO_PROXY", excluded)
    assert proxy_for(urlsplit(address)) == ("" if direct else "http://proxy:3128")


def test_an_answer_that_may_be_of_the_proxy_names_it(far, refusing):
    far.setenv("HTTP_PROXY", f"http://me:hush@{refusing.address}")
    for refusing.status, text in (
        (503, "cannot be reached at .*: it answers 503.*check CLIPTEA_S3_ENDPOINT and NO_PROXY"),
        (403, "does not answer like an S3 server"),
    ):
        with pytest.raises(StorageError, match=text) as caught:
            store().get("k")
        assert f"http://{HOST}:8333 through the proxy in HTTP_PROXY" in str(caught.value)
        assert "hush" not in str(caught.value)
    with pytest.raises(StorageError, match="through the proxy in HTTP_PROXY denies access"):
        store().entry("k")
