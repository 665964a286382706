"""What MLflow can never take is refused or renamed before work, and what is left over from other jobs is named."""

import os
import shutil
import socket
import sqlite3
import ssl
import sys
import time
from contextlib import closing

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import BAD_REQUEST, MlflowException, RestException
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun
from mlflow.utils.validation import _validate_metric
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from cliptea import outage, settings
from cliptea.data.catalogue import Catalogue, make_catalogue
from cliptea.errors import ConfigError, StorageError, TrackingError
from cliptea.run import Member, Run, expand
from cliptea.storage.marks import claim
from cliptea.tracking.address import EXPERIMENT, MlflowAway, database_trouble, require_server, tracking_address
from cliptea.tracking.artifacts import require_artifacts
from cliptea.tracking.experiment import experiment_id, plugin_run
from cliptea.tracking.metric_names import metric_name, renamed_metrics
from cliptea.tracking.mlflow_client import away, connect, persist
from cliptea.tracking.runs import ChildRun, open_parent

ODD = ["and/or/", "..", ".", "a//b", "/a", "a/../b", "x" * 300, "x" * 299 + "y", "a,b", "a;b", "a:2c:b", " a",
       "é", "a\"b", "it's", "100 %", "a\\b", "猫", "a\u200db", "a/b", "a:2f:b",
       "c" * 246, ":empty:", "?", "#1", "{x}", "~"]  # fmt: skip


@pytest.fixture
def database(empty_database, tmp_path, monkeypatch):
    file = shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    for name in ("CLIPTEA_EVENTS", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return file


def make_run(job="j", preset="smoke"):
    config = settings.load("smoke").model_copy(update={"preset": preset})
    variants = expand(config)[:1]
    run = Run(config=config, data_digest="d", fingerprint="f", job_id=job, tracking_run="", variants=variants)
    return run.model_copy(update={"tracking_run": open_parent(run)})


OUTSIDE = r"of a work directory keeps artifacts in .*, outside of it; expected a folder in .*mlflow/artifacts;"


@pytest.fixture
def artifacts(database, tmp_path, monkeypatch):
    """The folder of artifacts of a work directory, which may be somebody else's."""
    claim(tmp_path / "work", "work directory", "")
    folder = tmp_path / "work/mlflow/artifacts"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(database, folder.parent)}")
    return folder


def test_artifacts_of_a_work_directory_stay_in_it(artifacts, tmp_path):
    (tmp_path / "theirs").mkdir()
    (artifacts / "link").symlink_to(tmp_path / "theirs")
    theirs = [str(tmp_path / "theirs"), (tmp_path / "theirs").as_uri()]
    for place in [*theirs, f"{artifacts}/../../../theirs", f"{artifacts}/link/x", f"{artifacts}2"]:
        with pytest.raises(TrackingError, match=OUTSIDE):
            require_artifacts(place)
    for place in (f"{artifacts}/1/artifacts", f"{artifacts.as_uri()}/1/artifacts"):
        require_artifacts(place)


def test_a_run_that_a_work_directory_already_has_cannot_write_elsewhere(artifacts, tmp_path):
    """It may be planted: its artifacts would replace files of the same names."""
    run = make_run()
    child = ChildRun.open(run, run.variants[0])
    for planted, reopen in ((child.run_id, lambda: ChildRun.open(run, run.variants[0])), (run.tracking_run, make_run)):
        with sqlite3.connect(artifacts.parent / "mlflow.db") as database:
            place = (tmp_path / "theirs").as_uri()
            database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", [place, planted])
        with pytest.raises(TrackingError, match=OUTSIDE):
            reopen()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("before", ["val_iou", "voc12/val_iou"])
def test_every_class_name_becomes_a_metric_that_mlflow_takes(name, before):
    metric = metric_name(before, name)
    _validate_metric(metric, 0.5, 0, 0)  # MLflow's own check
    assert metric_name(metric) == metric  # as it is named again when it is logged
    assert metric.startswith(f"{before}/")


def test_different_class_names_are_different_metrics():
    metrics = [metric_name("val_iou", name) for name in ODD]
    assert len(set(metrics)) == len(ODD)
    assert metric_name("val_iou", "my sofa") == "val_iou/my sofa"  # and usual ones stay


def test_odd_class_names_are_logged_and_told(database):
    run = make_run()
    child = ChildRun.open(run, run.variants[0])
    child.log_result({metric_name("val_iou", name): 0.25 for name in ODD}, {})
    logged = MlflowClient().get_run(child.run_id).data.metrics
    assert len(logged) == len(ODD) + 1  # and hIoU
    renamed = renamed_metrics(Catalogue(classes=["sky", *ODD], unseen=["sky"]))
    assert renamed["and/or/"] == "val_iou/and:2f:or:2f:"
    assert "sky" not in renamed
    assert all(renamed.get(name, f"val_iou/{name}") in logged for name in ODD)


@pytest.mark.parametrize("name", ["", "  ", "a\x1b[31m", "a\nb", "a\udcff"])
def test_class_names_that_nobody_can_read_are_refused_on_one_printable_line(name):
    with pytest.raises(ConfigError, match=r"is empty|has control characters") as refused:
        make_catalogue(["sky", name], ["sky"])
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["a/b:c", "it's", 'a"b', "", " ", ".", "..", "a/b", "a:b", "x" * 300, "a\n", "a\x1b"])
def test_names_for_the_registry_are_refused_with_the_settings(name):
    escaped = name.encode("unicode_escape").decode().replace('"', '\\"')
    with pytest.raises(ConfigError, match=r"promotion.model is .*expected a name that MLflow accepts"):
        settings.load("smoke", [f'promotion.model="{escaped}"'])
    with pytest.raises(ConfigError, match=r"evaluation.sets has the name .*MLflow accepts"):
        settings.load("smoke", [f'evaluation.sets={{"{escaped}": {{dataset: voc12, root: x}}}}'])


@pytest.mark.parametrize("name", ["cliptea-demo", "my model 2", "v1.0_x", "x" * 100])
def test_names_that_pass_are_taken_by_the_registry(database, name):
    assert settings.load("smoke", [f"promotion.model={name}"]).promotion.model == name
    client = connect()
    client.create_registered_model(name)
    assert client.search_model_versions(f"name = '{name}'") == []


def test_a_deleted_experiment_is_restored(database):
    client = connect()
    client.delete_experiment(experiment_id(client))
    run = make_run()
    assert client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"
    assert client.get_run(run.tracking_run).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef"),
        ("MLFLOW_RUN_ID", "no id"),
        ("MLFLOW_EXPERIMENT_ID", "99"),
        ("MLFLOW_EXPERIMENT_ID", "my experiment"),
    ],
)
def test_a_variable_of_another_job_is_named_on_a_cluster_and_ignored_on_one_machine(
    database, monkeypatch, tmp_path, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"{variable}={value} names .* does not have.*unset it") as refused:
        make_run()
    assert "Exception" not in str(refused.value)
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    run = make_run()
    assert plugin_run(connect()) is None
    assert (
        connect().get_run(run.tracking_run).info.experiment_id
        == connect().get_experiment_by_name(EXPERIMENT).experiment_id
    )
    assert f"{variable} is ignored" in (tmp_path / "events").read_text()


def test_a_deleted_experiment_of_the_plugin_is_named(database, monkeypatch):
    client = connect()
    made = client.create_experiment("theirs")
    client.delete_experiment(made)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", made)
    with pytest.raises(ConfigError, match=rf"the experiment {made} in MLFLOW_EXPERIMENT_ID is deleted.*restore"):
        make_run()


def test_another_registry_is_refused(database, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"MLFLOW_REGISTRY_URI=http://127.0.0.1:9 .*unset MLFLOW_REGISTRY_URI"):
        connect()


def test_the_address_of_a_page_of_mlflow_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000/#/experiments/1")
    with pytest.raises(ConfigError, match=r"is the address of a page of MLflow; expected http://h:5000/; correct it"):
        tracking_address()


@pytest.mark.parametrize(
    "uri", ["./mlruns", "mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "s3://b/x", "gs://b/x", "ftp://h", "uc:x"]
)
def test_an_address_of_a_folder_or_of_a_store_without_runs_is_refused(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI=.*; expected http://HOST:PORT.*unset it"):
        tracking_address()


@pytest.mark.parametrize("uri", ["SQLite:////x/mlflow.db", "SQLITE:////x", "Postgresql://h/d", "HTTP://h:5000"])
def test_an_address_whose_kind_no_library_knows_is_refused(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    kind = uri.partition(":")[0].lower()
    with pytest.raises(ConfigError, match=f"{uri} begins with capitals; expected an address that begins with {kind}:$"):
        require_server()


@pytest.mark.parametrize(
    "uri",
    [
        "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/x",
        "databricks",
        "databricks://profile",
        "azureml://eu.api.azureml.ms/mlflow/v1.0/x",
        "postgresql://u@h/d?sslkey=/c/k.pem",
        "postgresql://u@h:5432/d?target_session_attrs=read-write",
        "mssql+pyodbc://h/d?Authentication=ActiveDirectoryMsi",
    ],
)
def test_addresses_for_plugins_and_of_databases_without_a_secret_are_taken(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_address() == uri


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:hush@h/d",
        "postgresql://u:hu/sh@h/d",
        "postgresql://h/d?user=u&password=hush",
        "postgresql://h/d?sslpassword=hush",
        "mysql+pymysql://h/d?passwd=hush",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhush",
        "http://u@h",
    ],
)
def test_addresses_with_a_password_are_refused(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="holds a password") as refused:
        tracking_address()
    assert "hu" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mysql+pymysql://root@localhost/db?unix_socket=/run/mysqld.sock",
        "mysql://root@localhost/db",
        "postgresql://u@h/d?host=/run/postgresql",
        "mssql+pyodbc://DSN",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx",
        "azureml://h/x",
        "databricks",
    ],
)
def test_no_port_is_tried_that_an_address_does_not_use(monkeypatch, uri):
    def refuse(*address, **options):
        raise ConnectionRefusedError(f"tried {address}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert database_trouble(uri) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [("s3://b/m.db", "is a URI"), ("~/m.db", "begins with ~"), ("~nobody0/m.db", "user who does not exist")],
)
def test_a_database_elsewhere_is_no_file_here(path, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    with pytest.raises(MlflowAway, match=why) as told:
        connect()
    assert not told.value.temporary
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_no_plugin_knows_is_told(monkeypatch):
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htps://h/x")
    with pytest.raises(MlflowAway, match=r"nor an installed plug-in knows addresses of the kind htps.*correct") as told:
        connect()
    assert not told.value.temporary


def in_session(error):
    """As MLflow wraps what its tables refuse."""
    wrapped = MlflowException(error, BAD_REQUEST)
    wrapped.__cause__ = error
    return wrapped


MADE = ProgrammingError("CREATE TABLE experiments", {}, Exception('relation "experiments" already exists'))
ADDED = in_session(IntegrityError("INSERT", {}, Exception("Duplicate entry '0' for key 'experiments.PRIMARY'")))


@pytest.mark.parametrize("error", [MADE, ADDED])
def test_two_first_runs_may_make_the_tables_of_a_database_at_the_same_moment(error, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u@h/d")
    failures = [away(error), away(error)]

    def work():
        if failures:
            raise failures.pop()
        return "made"

    assert "another process has just made the same tables or rows" in str(failures[0])
    assert persist(work) == "made"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////x/mlflow.db")  # which is made under a lock
    assert not away(error).temporary


def test_another_slash_is_no_other_registry(database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9/")
    with pytest.raises(MlflowAway, match="does not answer"):
        connect()


def a_folder(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    return "it is a folder"


def text(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    return "it is not an SQLite database"


def a_pipe(tmp_path):
    os.mkfifo(tmp_path / "mlflow.db")
    return "it is not a file"


@pytest.mark.parametrize("make", [a_folder, text, a_pipe])
def test_a_file_that_is_no_database_is_told_at_once(tmp_path, monkeypatch, make):
    reason = make(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    began = time.monotonic()
    for ask, kind in ((require_server, StorageError), (connect, MlflowAway)):
        with pytest.raises(kind, match=f"cannot be used.*{reason}.*correct MLFLOW_TRACKING_URI"):
            ask()
    assert time.monotonic() - began < 5


def test_a_database_that_another_program_locks_is_told_soon_and_may_pass(tmp_path, empty_database, monkeypatch):
    monkeypatch.setattr("cliptea.tracking.database.WAIT_SECONDS", 0.1)
    file = shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"another program holds its lock.*; close that program"):
            require_server()
        began = time.monotonic()
        with pytest.raises(MlflowAway, match=r"another program holds its lock.*; close that program") as told:
            persist(connect, 0.2)
        assert time.monotonic() - began < 3
    assert told.value.temporary
    assert isinstance(persist(connect), MlflowClient)
    later = away(OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")))
    assert (later.reason, later.temporary) == (told.value.reason, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")  # a server whose own database is locked
    of_server = away(RestException({"error_code": "INTERNAL_ERROR", "message": "database is locked"}))
    assert "program" not in str(of_server)
    assert of_server.temporary


def test_a_database_server_that_is_away_is_told_within_seconds(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://mlflow@127.0.0.1:{port}/mlflow")
    began = time.monotonic()
    for ask in (require_server, connect):
        with pytest.raises(StorageError, match=r"it does not answer \(Connection refused\).*start it"):
            ask()
    assert time.monotonic() - began < 5


def test_a_database_server_that_restarts_is_waited_for(monkeypatch):
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("CLIPTEA_PATIENCE", "600")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://mlflow@127.0.0.1:{server.getsockname()[1]}/mlflow")
        tries = []

        def work():
            tries.append(1)
            if len(tries) == 3:
                return "done"
            return connect()

        assert persist(work) == "done"


def test_a_database_server_that_is_just_starting_is_waited_for(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow@h/mlflow")
    starting = OperationalError("SELECT 1", {}, Exception("FATAL: the database system is starting up"))
    assert away(starting).temporary
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////x/mlflow.db")
    assert not away(starting).temporary


def test_a_database_server_that_swallows_packets_is_told_within_fifteen_seconds(monkeypatch):
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow@h.example/mlflow")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "600")

    def swallow(address, timeout):
        time.sleep(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", swallow)
    began = time.monotonic()
    with pytest.raises(MlflowAway, match="timed out"):
        persist(connect)
    assert 9 < time.monotonic() - began < 15


@pytest.mark.parametrize("schema", ["1bd49d398cd23", "ffffffffffff"])
def test_the_schema_of_another_mlflow_is_explained(database, schema):
    with sqlite3.connect(database) as opened:
        opened.execute("UPDATE alembic_version SET version_num = ?", (schema,))
    with pytest.raises(MlflowAway, match=r"by a(nother|\ newer) version of MLflow.*use the version of MLflow") as told:
        connect()
    assert not told.value.temporary
    assert schema in str(told.value)


@pytest.mark.parametrize("kind", ["wasbs", "abfss", "sftp"])
def test_artifacts_that_need_a_missing_package_are_refused_before_work(kind):
    with pytest.raises(TrackingError, match=rf"at {kind}://b/x, and the Python package .* is not installed"):
        require_artifacts(f"{kind}://b/x")


def test_artifacts_in_databricks_need_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "databricks.sdk", None)  # as if it were not installed
    with pytest.raises(TrackingError, match=r"at dbfs:/x, and the Python package databricks.sdk for dbfs: is not"):
        require_artifacts("dbfs:/x")


def test_artifacts_of_a_proxying_server_are_no_local_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # nothing here can be written
    require_artifacts("mlflow-artifacts:/1/abc/artifacts")


def test_google_s_artifacts_need_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(TrackingError, match="at gs://b/x, and there are no credentials for it"):
        require_artifacts("gs://b/x")


@pytest.mark.parametrize("place", ["s3://b/x", "mlflow-artifacts:/1/x", "http://h/x", "/tmp/x/y", "file:///tmp/x"])
def test_artifacts_that_can_be_written_are_taken(place):
    require_artifacts(place)


def test_an_experiment_of_another_name_is_used_but_not_in_a_work_directory(database, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team/segmentation")
    run, client = make_run(), connect()
    named = client.get_experiment_by_name("team/segmentation")
    assert client.get_run(run.tracking_run).info.experiment_id == named.experiment_id
    assert client.get_experiment_by_name(EXPERIMENT) is None
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    own = make_run()
    ours = client.get_experiment_by_name(EXPERIMENT)
    assert client.get_run(own.tracking_run).info.experiment_id == ours.experiment_id
    assert "MLFLOW_EXPERIMENT_NAME is ignored" in (tmp_path / "events").read_text()


def test_a_long_name_of_an_experiment_is_refused_with_its_variable(database, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * SqlExperiment.name.type.length)
    make_run()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * (SqlExperiment.name.type.length + 1))
    with pytest.raises(
        ConfigError, match=r"^MLFLOW_EXPERIMENT_NAME=x+ ... x+ has 257 characters; expected at most 256"
    ):
        make_run()


def test_long_names_of_runs_fit_into_every_database_and_keep_what_tells_them_apart(database):
    members = [Member(group="mine", variant=sign * 100) for sign in "abc"]
    run = make_run(preset="p" * 240)
    both = [{"members": members, "seed": seed, "label": f"mine/{'a' * 100} seed {seed}"} for seed in (0, 1)]
    variants = [run.variants[0].model_copy(update=parts) for parts in both]
    ids = [run.tracking_run, *(ChildRun.open(run, variant).run_id for variant in variants)]
    names = [connect().get_run(run_id).info.run_name for run_id in ids]
    assert max(map(len, names)) <= SqlRun.name.type.length
    assert names[1].startswith("a" * 100)
    assert "seed 0" in names[1]
    assert "seed 1" in names[2]


FULL_DISK = "[Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("uri", "error", "passes"),
    [
        ("sqlite:////x/mlflow.db", OperationalError("INSERT", {}, Exception("database or disk is full")), False),
        ("sqlite:////x/mlflow.db", MlflowException(f"failures occurred while downloading: {FULL_DISK}"), False),
        ("http://h:5000", MlflowException(f"failures occurred while downloading: {FULL_DISK}"), False),
        ("http://h:5000", RestException({"error_code": "INTERNAL_ERROR", "message": FULL_DISK}), True),
        ("postgresql://mlflow@h/mlflow", MlflowException(f"could not extend file: {FULL_DISK}"), True),
    ],
)
def test_a_full_disk_is_waited_for_only_if_it_is_the_server_s(monkeypatch, uri, error, passes):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told = away(error)
    assert told.temporary == passes
    assert passes or "the disk is full" in str(told)


BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH")


@pytest.fixture
def no_bundle(monkeypatch):
    for name in (*BUNDLES, "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "")  # so that what `connect` sets is undone
        monkeypatch.delenv(name)


def test_mlflow_trusts_the_ca_that_ssl_cert_file_names(database, no_bundle, monkeypatch):
    connect()
    assert "REQUESTS_CA_BUNDLE" not in os.environ
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    connect()
    with requests.Session() as session:
        settings = session.merge_environment_settings("https://mlflow.example.test", {}, None, None, None)
    assert settings["verify"] == "/ca.pem"


@pytest.mark.parametrize(("bundle", "told"), [("/ca.pem", True), ("/own.pem", False), ("", False)])
def test_a_ca_that_is_only_that_of_s3_is_told(no_bundle, monkeypatch, bundle, told):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.test")
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem" if bundle else "")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    error = MlflowException("API request failed")
    error.__cause__ = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    said = away(error)
    assert not said.temporary
    assert ("SSL_CERT_FILE is used for MLflow too" in str(said)) == told


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_of_the_user_counts_more(database, no_bundle, monkeypatch, name):
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    monkeypatch.setenv(name, "/own.pem")
    connect()
    assert os.environ[name] == "/own.pem"
    assert [os.environ.get(other) for other in BUNDLES if other != name] == [None, None]
