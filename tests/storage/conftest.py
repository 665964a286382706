"""One S3 server for all tests here, a faulty proxy and a clean environment for each."""

import os

import minio
import pytest
from faulty_proxy import FaultyProxy
from s3_server import ACCESS, BUCKET, QUICK, SECRET, S3Server, running

from cliptea import outage
from cliptea.storage import open_store
from cliptea.storage.s3_store import S3Store


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="session")
def server(server_folder):
    with running(server_folder) as host:
        yield host


@pytest.fixture
def environment(monkeypatch, server, tmp_path):
    """Nothing of the user's: only the server of the tests, its credentials, and an empty cache."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "CLIPTEA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPTEA_S3_ENDPOINT", f"http://{server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return monkeypatch


@pytest.fixture
def store(environment, tmp_path):
    """An empty folder of the bucket."""
    return S3Store(BUCKET, tmp_path.name, QUICK)


@pytest.fixture
def proxy(environment, server, store):
    """Between `store` and the server from now on."""
    with FaultyProxy(server) as proxy:
        environment.setenv("CLIPTEA_S3_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.fixture
def mortal(tmp_path_factory):
    """A server of one's own, for killing."""
    server = S3Server(tmp_path_factory.mktemp("mortal"))
    server.start()
    minio.Minio(server.host, ACCESS, SECRET, secure=False).make_bucket(BUCKET)
    yield server
    server.kill()


@pytest.fixture
def own(environment, mortal):
    """A store at that server, as a step opens it."""
    environment.setenv("CLIPTEA_S3_ENDPOINT", f"http://{mortal.host}")
    environment.setenv("CLIPTEA_PATIENCE", "60")
    environment.setattr(outage, "LONGEST_PAUSE", 0.5)
    return open_store(f"s3://{BUCKET}/run")
