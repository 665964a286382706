"""A tracking server that is down, hangs or restarts costs no training, and what was to be logged comes later."""

import re
import sqlite3
import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from small_servers import greeting, served, silent
from storage.faulty_proxy import ALWAYS, FaultyProxy

from cliptea import outage, settings
from cliptea.errors import ConfigError, StorageError
from cliptea.outage import COMMAND_SECONDS
from cliptea.run import Run, expand
from cliptea.storage import FileStore
from cliptea.tracking import curves, mlflow_client
from cliptea.tracking.address import EXPERIMENT, MlflowAway, require_server
from cliptea.tracking.deferred import log_deferred
from cliptea.tracking.mlflow_client import connect, persist
from cliptea.tracking.runs import ChildRun, open_parent

EPOCH = 4.0  # iterations


@pytest.fixture
def run(client):
    config = settings.load("smoke")
    variants = expand(config)[:1]
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="", variants=variants)
    return run.model_copy(update={"tracking_run": open_parent(run)})


@pytest.fixture
def warnings(monkeypatch):
    told = []
    monkeypatch.setattr(curves.progress, "warn", told.append)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return told


def points(last):
    return [{"iteration": n, "total": n / 7, "ce": n / 3} for n in range(2, last + 1, 2)]


def train(run, last=8, between=lambda: None):
    """As a training tells of its curves, `between` after half of it; returns the seconds that the telling took."""
    with curves.curve_log(run, run.variants[0], EPOCH) as tell:
        seconds = 0.0
        for iteration in (last // 2, last):
            sent(tell)
            if iteration == last:
                between()
            before = time.monotonic()
            tell(points(iteration))
            seconds += time.monotonic() - before
        return seconds


def sent(tell):
    """Wait for what was told last."""
    tell.__self__._sending.join(60)


def logged(client, run, name="loss/ce"):
    child = ChildRun.open(run, run.variants[0]).run_id
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(child, name))


def test_curves_and_epochs_are_logged_while_a_student_learns(client, run, warnings):
    train(run, last=8)
    train(run, last=12)  # goes on
    assert warnings == []
    assert logged(client, run) == [(n, n / 3) for n in (2, 4, 6, 8, 10, 12)]
    assert logged(client, run, "train/epoch") == [(n, n / EPOCH) for n in (2, 4, 6, 8, 10, 12)]


def test_what_the_machine_does_is_logged_beside_and_goes_on_after_a_restart(client, run, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    train(run, between=lambda: time.sleep(1))
    first = logged(client, run, "system/cpu_utilization_percentage")
    train(run, between=lambda: time.sleep(1))
    both = logged(client, run, "system/cpu_utilization_percentage")
    assert len(both) > len(first) > 1
    assert [step for step, _ in both] == list(range(len(both)))
    assert 0 < logged(client, run, "system/system_memory_usage_percentage")[-1][1] < 100


def test_a_server_that_is_down_costs_a_warning_and_no_curve(client, run, warnings, monkeypatch):
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
        assert train(run) < 1
    assert len(warnings) == 1
    assert "will be logged later" in warnings[0]
    assert logged(client, run) == []
    train(run)
    assert logged(client, run) == [(n, n / 3) for n in (2, 4, 6, 8)]


@pytest.mark.parametrize("tracking_uri", ["server"], indirect=True)
def test_a_server_that_hangs_is_not_waited_for(client, run, server, warnings, monkeypatch):
    monkeypatch.setattr(curves, "PATIENCE", 0.5)
    with FaultyProxy(f"127.0.0.1:{server.port}") as proxy, monkeypatch.context() as slow:
        slow.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.port}")
        before = time.monotonic()
        assert train(run, between=lambda: proxy.fail("stall", ALWAYS)) < 1
        assert time.monotonic() - before < 5
    assert proxy.injected
    ChildRun.open(run, run.variants[0]).log_curves(points(8), EPOCH)  # as the evaluate step does
    assert logged(client, run) == [(n, n / 3) for n in (2, 4, 6, 8)]


@pytest.mark.parametrize("tracking_uri", ["server"], indirect=True)
def test_a_server_that_restarts_is_told_what_it_missed(client, run, server, warnings):
    with curves.curve_log(run, run.variants[0], EPOCH) as tell:
        sent(tell)
        tell(points(4))
        sent(tell)
        server.kill()
        tell(points(6))  # lost
        sent(tell)
        server.start()
        tell(points(8))
    assert len(warnings) == 1
    assert logged(client, run) == [(n, n / 3) for n in (2, 4, 6, 8)]


@pytest.fixture
def proxy(client, server, monkeypatch):
    """Between us and the server."""
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with FaultyProxy(f"127.0.0.1:{server.port}") as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.mark.parametrize("tracking_uri", ["server"], indirect=True)
@pytest.mark.parametrize("kind", ["500", "503", "reset"])
def test_work_is_begun_anew_until_a_server_answers_well(proxy, kind, capsys, monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS")
    proxy.fail(kind, 3)
    begun = []

    def work():
        begun.append(1)
        return connect().get_experiment_by_name(EXPERIMENT)

    assert persist(work) is None
    assert (len(begun), proxy.injected) == (4, 3)
    told = capsys.readouterr().err
    assert told.count(f"MLflow at http://127.0.0.1:{proxy.port} does not answer (") == 1
    assert told.count("answers again") == 1


@pytest.mark.parametrize("tracking_uri", ["server"], indirect=True)
@pytest.mark.parametrize("kind", ["403", "404"])
def test_a_refusal_is_not_waited_for(proxy, kind):
    proxy.fail(kind, ALWAYS)
    with pytest.raises(MlflowAway, match=f"MLflow at http://127.0.0.1:{proxy.port} cannot be used") as refused:
        persist(connect, 60)
    assert not refused.value.temporary
    assert proxy.injected == 1
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (200, "a web page or a login answers there.*MLFLOW_TRACKING_TOKEN"),
        (404, r"failed with error code 404 != 200\)"),
        (405, "a web page or a login answers there.*correct MLFLOW_TRACKING_URI"),
        (413, "a proxy in front of it refuses requests of this size.*client_max_body_size"),
        (422, r"failed with error code 422 != 200\)"),
    ],
)
def test_a_web_page_in_place_of_mlflow_is_told_and_not_waited_for(status, says, monkeypatch):
    class Page(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<!doctype html><p>Welcome</p>")

    with served(Page) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(MlflowAway, match=f"MLflow at {address} cannot be used.*{says}") as away:
            persist(connect, 1.0)
    assert not away.value.temporary
    assert "<" not in str(away.value)


def test_a_server_that_stays_away_is_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0.5")
    with pytest.raises(MlflowAway) as away:
        persist(connect)
    assert str(away.value) == (
        "MLflow does not answer at http://127.0.0.1:9 ([Errno 111] Connection refused); expected a running server; "
        "check MLFLOW_TRACKING_URI, or wait longer with CLIPTEA_PATIENCE"
    )
    assert away.value.temporary


@pytest.mark.parametrize("kind", ["http", "postgresql+psycopg"])
def test_a_server_that_never_answers_is_waited_for_no_longer_than_told(kind, monkeypatch):
    monkeypatch.setattr(mlflow_client, "PROBE_SECONDS", 1.0)
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    monkeypatch.setattr(mlflow_client, "DATABASE_SECONDS", "2")  # the least that the drivers take
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    tries = []

    def work():
        tries.append(time.monotonic())
        connect()

    with silent() as place:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{kind}://{place}" + ("/mlflow" if kind != "http" else ""))
        with pytest.raises(MlflowAway, match="does not answer at") as away:
            persist(work, 0.9)
        assert time.monotonic() - tries[0] < 60  # MLflow and psycopg have two minutes for each of several tries
    assert away.value.temporary
    assert len(tries) == 2  # the first one has taken all of the time, of which half counts


def test_the_time_of_the_first_try_counts(monkeypatch):
    """Otherwise, a server that answers late costs its own delay, again and again, within the whole patience."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tries = []

    def late():
        tries.append(1)
        time.sleep(0.4)
        raise MlflowAway("timed out")

    with pytest.raises(MlflowAway):
        persist(late, 0.3)
    assert len(tries) == 2


def test_work_that_takes_longer_than_the_patience_is_tried_again(monkeypatch):
    """As when a database fails over during the upload of a model."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tries = []

    def upload():
        tries.append(1)
        time.sleep(0.4)
        if len(tries) == 1:
            raise MlflowAway("the connection was closed")
        return "done"

    assert persist(upload, 0.3) == "done"


def no_database(folder):
    (folder / "mlflow.db").write_bytes(b"no database at all" * 100)
    return f"sqlite:///{folder}/mlflow.db", "it is not an SQLite database"


def later_schema(folder):
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("create table alembic_version(version_num text)")
        database.execute("insert into alembic_version values('later')")
        database.execute("create table experiments(experiment_id int)")
    return f"sqlite:///{folder}/mlflow.db", "later"


def dead_database(folder):
    return "postgresql+psycopg://127.0.0.1:9/mlflow", "it does not answer"


@pytest.mark.parametrize("make", [no_database, later_schema, dead_database])
def test_a_database_that_cannot_be_opened_is_told_soon(make, monkeypatch, tmp_path):
    uri, reason = make(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("CLIPTEA_PATIENCE", "600")
    began = time.monotonic()
    with pytest.raises(MlflowAway, match=reason) as broken:
        persist(connect)
    assert time.monotonic() - began < COMMAND_SECONDS + 10
    assert broken.value.temporary == (make is dead_database)  # a server of a database may start again
    assert "\n" not in str(broken.value)


@pytest.mark.parametrize(
    "uri", ["http://me:a-secret@127.0.0.1:9", "https://a-secret@host", "postgresql://me:a-secret@host/mlflow"]
)
@pytest.mark.parametrize("ask", [connect, require_server])
def test_an_address_with_a_password_is_refused_without_repeating_it(uri, ask, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        ask()
    assert "a-secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://127.0.0.1:9/below/"])
def test_a_command_is_told_at_once_that_nobody_answers(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = time.monotonic()
    with pytest.raises(StorageError, match=f"does not answer at {uri} .*unset MLFLOW_TRACKING_URI"):
        require_server()
    assert time.monotonic() - before < 2


@pytest.mark.parametrize("uri", ["http://localhost:50o0", "http://[::1", "http://local host:5000"])
def test_an_address_that_is_none_is_named_with_its_variable(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        StorageError, match=rf"^MLFLOW_TRACKING_URI={re.escape(uri)} is not an address; expected .*; correct it$"
    ):
        require_server()


def test_the_port_of_another_protocol_is_told(monkeypatch):
    with greeting(b"SSH-2.0-OpenSSH_9.2\r\n") as place:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{place}")
        with pytest.raises(
            StorageError, match=f"what answers at http://{place} does not speak HTTP .BadStatusLine.*_URI"
        ):
            require_server()


def test_a_server_that_hangs_up_does_not_answer(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.close_connection = True

    with served(Handler) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(StorageError, match=r"does not answer at .*Remote end closed connection.*start it"):
            require_server()


@pytest.mark.parametrize("status", [200, 401, 404])
def test_whatever_a_server_answers_it_is_there(status, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

    with served(Handler) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        require_server()


def test_a_range_of_addresses_needs_no_proxy(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with served(Handler) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(StorageError, match="does not answer"):
            require_server()
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8,.svc")
        require_server()


@pytest.mark.parametrize("uri", [None, "sqlite:////tmp/none/mlflow.db"])
def test_what_is_no_server_is_not_asked(uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    require_server()


def test_files_of_somebody_else_among_kept_entries_stay(tmp_path):
    store, names = FileStore(tmp_path), [".DS_Store", "desktop.ini", "old/entry.json"]
    for name in names:
        store.put(f"untold/run/{name}", b"precious")
    store.put("untold/run/entry.json", b"damaged")
    log_deferred(store, SimpleNamespace(tracking_run="run"), [])
    assert [entry.key for entry in store.entries("untold")] == [f"untold/run/{name}" for name in names]
