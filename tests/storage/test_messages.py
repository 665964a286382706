"""What a user reads when the settings are wrong: one line, and never a secret."""

import errno
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from certificates import self_signed
from faulty_proxy import FaultyProxy
from s3_server import ACCESS, BUCKET, QUICK, SECRET
from small_servers import served
from urllib3.exceptions import MaxRetryError, ReadTimeoutError, ResponseError
from urllib3.util import connection

from cliptea import watchdog
from cliptea.errors import ClipteaError, ServerAway, StorageError
from cliptea.steps.resolve import start_run
from cliptea.storage import fetch, open_store
from cliptea.storage.minio_client import Limits, connect
from cliptea.storage.s3_errors import endpoint
from cliptea.storage.s3_store import S3Store

OPERATIONS = [
    lambda store: store.put("k", b"x"),
    lambda store: store.get("k"),
    lambda store: store.size("k"),
    lambda store: list(store.entries("")),
]


def message(operation, store):
    with pytest.raises(StorageError) as caught:
        operation(store)
    text = str(caught.value)
    assert "\n" not in text
    for secret in (SECRET, "wrong-secret", "password"):
        assert secret not in f"{text} {store!r}"
    return text


@pytest.fixture
def impatient(store):
    """Waits for nobody."""
    return S3Store(store.bucket, store.prefix, replace(store.limits, patience=0.0))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("access", "secret"), [(ACCESS, "wrong-secret"), ("nobody", SECRET)])
@pytest.mark.parametrize("region", ["", "us-east-1"])
def test_wrong_credentials(environment, operation, access, secret, region):
    environment.setenv("AWS_ACCESS_KEY_ID", access)
    environment.setenv("AWS_SECRET_ACCESS_KEY", secret)
    environment.setenv("AWS_REGION", region)  # when it is named, the first request is the operation's own
    text = message(operation, S3Store(BUCKET))
    assert "AWS_SECRET_ACCESS_KEY" in text


def test_no_credentials(environment):
    environment.delenv("AWS_ACCESS_KEY_ID")
    began = time.monotonic()
    assert "the credentials for S3 are missing" in message(OPERATIONS[0], S3Store(BUCKET))
    assert time.monotonic() - began < 10


def test_credentials_from_a_mounted_file(environment, store, tmp_path):
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    store.put("k", b"x")
    assert store.get("k") == b"x"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("aws_access_key_id = AKEY\n", "MissingSectionHeaderError in line 1"),
        ("[default]\naws_access_key_id = AKEY\nA-SECRET\n", "ParsingError in line 3"),
        ("[default]\naws_access_key_id = AKEY\naws_access_key_id = AKEY\n", "DuplicateOptionError in line 3"),
    ],
)
def test_a_damaged_file_of_credentials_is_named(environment, tmp_path, text, place):
    file = tmp_path / "credentials"
    file.write_text(text)
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    told = message(OPERATIONS[0], S3Store(BUCKET))
    assert f"the file with the credentials for S3, {file}, cannot be read ({place})" in told
    assert "AKEY" not in told
    assert "A-SECRET" not in told


@pytest.mark.parametrize(
    ("code", "todo"),
    [
        ("RequestTimeTooSkewed", "set the clock of this machine"),
        ("AuthorizationHeaderMalformed", "set AWS_REGION to it, or unset it if the buckets are in several regions"),
        ("XMinioStorageFull", "free some space there, or raise the quota"),
        ("QuotaExceeded", "free some space there, or raise the quota"),
        ("EntityTooLarge", "raise its limit"),
        ("SomethingNew", "try again later"),
    ],
)
def test_what_a_server_refuses_comes_with_what_helps(environment, code, todo):
    error = f"<Error><Code>{code}</Code><Message>why</Message><Resource>/</Resource></Error>"
    with answering(400, error.encode()) as address:
        environment.setenv("CLIPTEA_S3_ENDPOINT", address)
        environment.setenv("AWS_REGION", "us-east-1")
        text = message(OPERATIONS[0], S3Store(BUCKET))
    assert text.startswith(f"{address} answers {code} for s3://{BUCKET}/k: why; ")
    assert todo in text


def test_a_refusal_without_a_word_names_token_and_region(environment):
    """What AWS answers to a HEAD when a session token has expired."""
    with answering(400, b"") as address:
        environment.setenv("CLIPTEA_S3_ENDPOINT", address)
        environment.setenv("AWS_REGION", "us-east-1")
        text = message(OPERATIONS[2], S3Store(BUCKET))
    assert "renew AWS_SESSION_TOKEN if it is set, and check AWS_REGION" in text


@contextmanager
def answering(status, body):
    """The address of a server that refuses every request in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = answer

    with served(Handler) as address:
        yield address


@pytest.mark.parametrize("operation", [OPERATIONS[0], OPERATIONS[1], OPERATIONS[3]])
def test_a_missing_bucket(environment, operation):
    assert "the bucket nowhere does not exist at http://127.0.0.1" in message(operation, S3Store("nowhere"))


def test_a_server_that_is_not_there(environment, impatient):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        environment.setenv("CLIPTEA_S3_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    text = message(OPERATIONS[0], impatient)
    assert "S3 cannot be reached at http://127.0.0.1" in text
    assert "Connection refused" in text
    assert "CLIPTEA_S3_ENDPOINT" in text


def test_a_host_without_a_name(environment, impatient):
    environment.setenv("CLIPTEA_S3_ENDPOINT", "https://no-such-host.invalid")
    assert "S3 cannot be reached at https://no-such-host.invalid" in message(OPERATIONS[1], impatient)


@pytest.mark.parametrize(
    "value",
    ["127.0.0.1:9000", "ftp://host", "http://user:password@host", "http://host/path", "http://host:port", "http://"],
)
def test_a_malformed_endpoint(environment, store, value):
    environment.setenv("CLIPTEA_S3_ENDPOINT", value)
    assert "CLIPTEA_S3_ENDPOINT is not the address of a server" in message(OPERATIONS[0], store)


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://user:password@bucket/key"])
@pytest.mark.parametrize("use", [open_store, fetch])
def test_a_uri_without_a_bucket(environment, use, uri):
    with pytest.raises(StorageError, match=r"does not name a bucket|holds credentials") as caught:
        use(uri)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("bucket", ["UPPER_case", "a", "b..c"])
def test_a_bucket_of_an_impossible_name(environment, bucket):
    assert bucket in message(OPERATIONS[0], S3Store(bucket))


@pytest.fixture
def certificate(tmp_path):
    return self_signed(tmp_path)


def test_tls_with_a_ca_of_ones_own(environment, server, store, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with FaultyProxy(server, context) as proxy:
        environment.setenv("CLIPTEA_S3_ENDPOINT", f"https://localhost:{proxy.port}")
        patient = S3Store(store.bucket, store.prefix, replace(store.limits, patience=60.0))
        began = time.monotonic()
        assert "set SSL_CERT_FILE to the server's CA" in message(OPERATIONS[0], patient)
        assert time.monotonic() - began < 10
        environment.setenv("SSL_CERT_FILE", str(certificate))
        trusting = S3Store(store.bucket, store.prefix, store.limits)
        trusting.put("k", b"x")
        assert trusting.get("k") == b"x"


def test_a_server_without_tls_is_told_at_once(environment, server, store):
    environment.setenv("CLIPTEA_S3_ENDPOINT", f"https://{server}")
    began = time.monotonic()
    text = message(OPERATIONS[0], store)
    assert "the server speaks http and not https; write its address with http://" in text
    assert time.monotonic() - began < store.limits.patience


def test_a_tls_connection_that_breaks_off_is_waited_for(environment, store):
    with socket.create_server(("127.0.0.1", 0)) as dying:
        port, taken = dying.getsockname()[1], []

        def hang_up():
            while True:
                try:
                    connection, _ = dying.accept()
                except OSError:  # closed
                    return
                taken.append(connection.recv(10_000))
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        environment.setenv("CLIPTEA_S3_ENDPOINT", f"https://127.0.0.1:{port}")
        quick = S3Store(store.bucket, store.prefix, replace(store.limits, patience=0.3))
        assert "the connection breaks" in message(OPERATIONS[0], quick)
    assert len(taken) > 1


@pytest.mark.parametrize("number", [errno.EPERM, errno.EAGAIN])  # of a firewall; of a machine that is busy
def test_a_connection_that_this_machine_refuses_is_tried_again(store, monkeypatch, number):
    connect, refused = connection.create_connection, []

    def refuse(*address, **options):
        if len(refused) < 2:
            refused.append(number)
            raise OSError(number, os.strerror(number))
        return connect(*address, **options)

    monkeypatch.setattr(connection, "create_connection", refuse)
    fresh = S3Store(store.bucket, store.prefix, replace(store.limits, patience=10.0))
    fresh.put("k", b"x")
    assert fresh.get("k") == b"x"
    assert len(refused) == 2


def test_what_is_sent_and_read_shows_the_watchdog_that_the_work_is_alive(store, monkeypatch):
    told = []
    monkeypatch.setattr(watchdog, "alive", lambda seconds=0.0: told.append(seconds))
    store.put("k", bytes(5 << 20))
    sent = len(told)
    assert sent
    assert store.get("k") == bytes(5 << 20)
    assert len(told) - sent >= 5  # for pieces of one request


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "CLIPTEA_CACHE_GIB",
            "much",
            "CLIPTEA_CACHE_GIB is 'much'; expected a number of GiB, 0 for no cache",
        ),
        ("CLIPTEA_STORE", "gs://bucket", "the object store is 'gs://bucket'; expected s3://bucket/folder"),
    ],
)
def test_a_run_refuses_its_surroundings_before_any_work(environment, name, value, message):
    environment.setenv("CLIPTEA_STORE", f"s3://{BUCKET}/run")
    environment.setenv(name, value)
    with pytest.raises(ClipteaError, match=message):
        start_run("smoke", [], "job")


def test_a_missing_file_of_ca_certificates_is_named(environment, server, store, tmp_path):
    environment.setenv("CLIPTEA_S3_ENDPOINT", f"https://{server}")
    environment.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    text = message(OPERATIONS[1], S3Store(store.bucket, store.prefix, store.limits))
    assert f"SSL_CERT_FILE={tmp_path / 'none.pem'} is not a file" in text


NAMES = ["CLIPTEA_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]


def test_the_names_of_the_server_in_their_order(environment):
    for number, name in enumerate(NAMES):
        environment.setenv(name, f"http://host{number}:80")
    for number, name in enumerate(NAMES):
        assert endpoint().hostname == f"host{number}"
        environment.delenv(name)
    assert endpoint().hostname == "s3.amazonaws.com"
    environment.setenv("AWS_ENDPOINT_URL", "host")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL is not the address of a server"):
        endpoint()


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_server_under_the_names_of_aws(environment, store, name):
    environment.setenv(name, os.environ["CLIPTEA_S3_ENDPOINT"])
    environment.delenv("CLIPTEA_S3_ENDPOINT")
    store.put("k", b"x")
    assert store.get("k") == b"x"
    environment.setenv(name, "http://127.0.0.1:9")
    text = message(OPERATIONS[1], S3Store(store.bucket, store.prefix, Limits(timeout=1.0, patience=0)))
    assert f"check {name}, or wait longer" in text


ROLE = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>a</AccessKeyId><SecretAccessKey>b</SecretAccessKey>
<SessionToken>c</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def role(environment, tmp_path):
    """A role by web identity, and no other credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        environment.delenv(name, raising=False)
    (tmp_path / "token").write_text("t0ken")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    environment.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
    environment.setenv("AWS_DEFAULT_REGION", "eu-west-1")


def test_a_role_by_web_identity_and_the_region_under_its_other_name(environment, role):
    asked = []

    def answer(self, method, url, **options):
        asked.append((urlsplit(url), self.connection_pool_kw))
        return SimpleNamespace(status=200, data=ROLE.encode())

    environment.setattr(urllib3.PoolManager, "urlopen", answer)
    client = connect(Limits())
    given = client._provider.retrieve()
    assert (given.access_key, given.secret_key, given.session_token) == ("a", "b", "c")
    assert client._base_url.region == "eu-west-1"
    ((url, options),) = asked
    assert options["timeout"] >= 10
    assert all(options["retries"].is_retry("POST", status) for status in (429, 500, 503))
    assert not options["retries"].is_retry("POST", 403)
    assert url.hostname == "sts.eu-west-1.amazonaws.com"
    query = parse_qs(url.query)
    assert (query["RoleArn"], query["WebIdentityToken"]) == (["arn:aws:iam::1:role/r"], ["t0ken"])


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("", "sts.amazonaws.com"),
        ("eu-west-1", "sts.eu-west-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_server_of_a_role_may_be_excluded_from_a_proxy(environment, role, region, host):
    asked = []

    def answer(self, method, url, **options):
        asked.append((urlsplit(url).hostname, isinstance(self, urllib3.ProxyManager)))
        return SimpleNamespace(status=200, data=ROLE.encode())

    environment.setattr(urllib3.PoolManager, "urlopen", answer)
    environment.setenv("AWS_DEFAULT_REGION", region)
    for name in ("https_proxy", "no_proxy"):
        environment.delenv(name, raising=False)
    environment.setenv("HTTPS_PROXY", "http://proxy:3128")
    for excluded in ("", host):
        environment.setenv("NO_PROXY", excluded)
        connect(Limits())
    assert asked == [(host, True), (host, False)]


@pytest.fixture
def sts(environment, role):
    """What AWS answers from now on when it is asked for credentials that expire at once: statuses, or errors."""
    answers, ask = [], urllib3.PoolManager.urlopen
    given = ROLE.replace(">a<", f">{ACCESS}<").replace(">b<", f">{SECRET}<").replace("2099", "2001")

    def answer(self, method, url, **options):
        if "sts." not in url:
            return ask(self, method, url, **options)
        found, tries = answers.pop(0) if answers else 200, self.connection_pool_kw["retries"]
        if isinstance(found, int) and tries.is_retry(method, found) and tries.raise_on_status:
            raise MaxRetryError(None, url, ResponseError(ResponseError.SPECIFIC_ERROR.format(status_code=found)))
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(status=found, data=given.encode())

    environment.setattr(urllib3.PoolManager, "urlopen", answer)
    return answers


AWAY = MaxRetryError(None, "https://sts.amazonaws.com/?WebIdentityToken=t0ken", ReadTimeoutError(None, "", "late"))


@pytest.mark.parametrize("trouble", [503, 429, AWAY])
def test_credentials_that_cannot_be_renewed_for_a_while_are_an_outage(environment, sts, tmp_path, trouble):
    store = S3Store(BUCKET, tmp_path.name, QUICK)
    store.put("k", b"x")
    sts += [trouble] * 4
    assert store.get("k") == b"x"
    assert sts == []


@pytest.mark.parametrize("trouble", [503, 429, AWAY])
def test_the_first_credentials_are_waited_for(sts, trouble):
    sts += [trouble] * 4
    connect(QUICK)
    assert sts == []


def test_first_credentials_that_are_denied_are_told_at_once(sts):
    sts += [403, 200]
    with pytest.raises(ServerAway, match="the role in AWS_ROLE_ARN cannot be fetched"):
        connect(Limits(patience=60.0))
    assert sts == [200]


@pytest.mark.parametrize(("trouble", "says"), [(503, "it answers 503"), (AWAY, "no answer in time")])
def test_credentials_that_are_never_renewed_or_given(environment, sts, tmp_path, trouble, says):
    store = S3Store(BUCKET, tmp_path.name, Limits(timeout=1.0, patience=0.2))
    store.put("k", b"x")
    sts += [trouble] * 1000
    with pytest.raises(ServerAway, match=rf"the credentials cannot be renewed: {says}") as renewing:
        store.get("k")
    with pytest.raises(ServerAway, match=rf"the role in AWS_ROLE_ARN cannot be fetched \({says}") as fetching:
        connect(Limits(patience=0.2))
    for caught in (renewing, fetching):
        assert caught.value.temporary
        assert "t0ken" not in str(caught.value)
