"""MLflow's database in a SQLite file: where it lies, how it is made, and how it is moved."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from mlflow import MlflowClient

from cliptea.errors import TrackingError
from cliptea.storage.marks import WORKDIR, claim
from cliptea.tracking.address import EXPERIMENT
from cliptea.tracking.database import (
    database_file,
    database_uri,
    has_moved,
    mlflow_command,
    placeless_command,
    readdress,
    require_database,
    stored_experiment_id,
    workdir_of,
)
from cliptea.tracking.experiment import experiment_id
from cliptea.tracking.mlflow_client import connect

ODD = ["a b", "a?b", "a%20b", "%41", "a#b", "a;b", "ä 日本", "a'b\"c", "file:x", "100%"]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def client(tmp_path, empty_database, monkeypatch):
    """A client of a database in a work directory, with a run, an artifact and a registered model."""
    folder = tmp_path / "old" / "mlflow"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(Path(shutil.copy(empty_database, folder / "mlflow.db"))))
    client = connect()
    run = client.create_run(experiment_id(client))
    client.log_text(run.info.run_id, "old", "model/MLmodel")
    client.create_registered_model("m")
    client.create_model_version("m", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_tag(run.info.run_id, "note", f"see {run.info.artifact_uri}")
    return client


def test_the_number_of_the_experiment_is_read_without_mlflow(client, tmp_path):
    file = database_file(client.tracking_uri)
    assert stored_experiment_id(file, EXPERIMENT) == experiment_id(client) != "0"
    assert stored_experiment_id(file, "another") is None
    client.delete_experiment(experiment_id(client))
    assert stored_experiment_id(file, EXPERIMENT) is None
    (tmp_path / "damaged.db").write_bytes(b"no database" * 1000)
    assert stored_experiment_id(tmp_path / "damaged.db", EXPERIMENT) is None


@pytest.mark.parametrize("name", ODD)
def test_everything_lies_in_the_folder_that_is_named(name, tmp_path, empty_database, monkeypatch):
    folder = tmp_path / name / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    uri = database_uri(folder / "mlflow.db")
    assert database_file(uri) == folder / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = connect()
    run = client.create_run(experiment_id(client))
    client.log_text(run.info.run_id, "text", "note.txt")
    assert set(files(tmp_path)) == {
        f"{name}/mlflow/mlflow.db",
        f"{name}/mlflow/artifacts/{run.info.run_id}/artifacts/note.txt",
    }
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("uri", ["http://host/x", "sqlite://", "sqlite:///:memory:", "postgresql://host/x", ""])
def test_other_addresses_name_no_file(uri):
    assert database_file(uri) is None


def test_a_new_database_is_made_in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a?b %41" / "mlflow.db"
    require_database(file)
    assert files(tmp_path) == ["a?b %41/mlflow.db"]
    assert len(list(tmp_path.iterdir())) == 1
    (default,) = MlflowClient(database_uri(file)).search_experiments()
    assert unquote(urlparse(default.artifact_location).path) == str(file.parent / "artifacts/0")


MAKE = "import sys; from pathlib import Path; from cliptea.tracking.database import require_database as made"
MAKE += "; import mlflow.store.tracking.sqlalchemy_store; print('ready', flush=True); sys.stdin.read(1)"
MAKE += "; made(Path(sys.argv[1])); print('made', flush=True)"


def making(file):
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def usable(file):
    return len(MlflowClient(database_uri(file)).search_experiments()) == 1


def test_killed_while_it_makes_a_database_it_leaves_none(tmp_path):
    """A process that waits for the first one shows as well that its lock dies with it."""
    file = tmp_path / "mlflow.db"
    first, second = making(file), making(file)
    for process in (first, second):
        assert process.stdout.readline() == "ready\n"
    first.stdin.write("x")
    first.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".partial-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not file.exists()
    assert list(tmp_path.glob(".partial-*"))
    out, _ = second.communicate("x", timeout=120)
    assert out == "made\n"
    assert files(tmp_path) == ["mlflow.db"]
    assert usable(file)


def in_workdir(root, database):
    """A copy of the database in a work directory."""
    claim(root, WORKDIR, "")
    (root / "mlflow").mkdir()
    return Path(shutil.copy(database, root / "mlflow/mlflow.db"))


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Databases as MLflow itself leaves them when it is killed: after the first tables, and after each of some
    migrations, the last one included."""
    import sqlalchemy
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    folder = tmp_path_factory.mktemp("halves")
    engine = sqlalchemy.create_engine(f"sqlite:///{folder / 'growing.db'}")
    config = utils._get_alembic_config("")
    revisions = [found.revision for found in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    Base.metadata.create_all(engine)
    made = [Path(shutil.copy(folder / "growing.db", folder / "0.db"))]
    for number in (1, len(revisions) // 2, len(revisions) - 1):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revisions[number])
        made.append(Path(shutil.copy(folder / "growing.db", folder / f"{number}.db")))
    (folder / "empty.db").touch()
    return [*made, folder / "empty.db"]


@pytest.mark.parametrize("number", range(5))
def test_a_half_made_database_is_replaced(halves, number, tmp_path, empty_database, monkeypatch):
    file = in_workdir(tmp_path, halves[number])
    monkeypatch.setattr(
        "cliptea.tracking.database._create", lambda aside, artifacts: shutil.copy(empty_database, aside)
    )
    file.with_name("mlflow.db-journal").write_bytes(b"of the killed process")
    require_database(file)
    assert files(tmp_path) == ["cliptea.json", "mlflow/mlflow.db"]
    assert usable(file)


@pytest.mark.parametrize("number", range(5))
def test_elsewhere_a_half_made_database_is_left_alone(halves, number, tmp_path, monkeypatch):
    """A server may be creating it."""
    monkeypatch.setattr("cliptea.tracking.database._create", None)
    file = Path(shutil.copy(halves[number], tmp_path / "mlflow.db"))
    require_database(file)
    assert file.read_bytes() == halves[number].read_bytes()
    assert files(tmp_path) == ["mlflow.db"]


def test_a_database_with_models_and_without_experiments_is_kept(tmp_path, empty_database, monkeypatch):
    monkeypatch.setattr("cliptea.tracking.database._create", None)
    file = in_workdir(tmp_path, empty_database)
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM experiments")
        database.execute("INSERT INTO registered_models (name) VALUES ('m')")
    before = file.read_bytes()
    require_database(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("links", [True, False])
def test_a_database_that_another_program_makes_meanwhile_is_kept(links, tmp_path, empty_database, monkeypatch):
    file = tmp_path / "mlflow.db"

    def create(aside, artifacts):
        shutil.copy(empty_database, aside)
        file.write_bytes(b"of a server")

    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("cliptea.tracking.database._create", create)
    if not links:
        monkeypatch.setattr("cliptea.tracking.database.os.link", no_links)
    require_database(file)
    assert file.read_bytes() == b"of a server"
    assert files(tmp_path) == ["mlflow.db"]
    file.unlink()
    monkeypatch.setattr(
        "cliptea.tracking.database._create", lambda aside, artifacts: shutil.copy(empty_database, aside)
    )
    require_database(file)
    assert files(tmp_path) == ["mlflow.db"]
    assert usable(file)


def test_a_database_with_runs_or_of_somebody_else_is_kept(tmp_path, empty_database, monkeypatch):
    monkeypatch.setattr("cliptea.tracking.database._create", None)
    own = in_workdir(tmp_path, empty_database)
    with sqlite3.connect(own) as database:
        database.execute("UPDATE alembic_version SET version_num = 'of an earlier MLflow'")
    foreign = own.with_name("foreign.db")
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE photos (name TEXT)")
    damaged = own.with_name("damaged.db")
    damaged.write_text("no database at all")
    for file in (own, foreign, damaged):
        before = file.read_bytes()
        require_database(file)
        assert file.read_bytes() == before


def test_runs_that_start_at_once_share_the_experiment(client, monkeypatch):
    """The second process has looked for the experiment before the first one made it."""
    answers = [None, client.get_experiment_by_name(EXPERIMENT)]
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: answers.pop(0))
    assert experiment_id(client) == "1"
    assert answers == []


def addresses(file):
    """Every value of the database that holds an absolute address, from all columns of all tables."""
    with sqlite3.connect(file) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]
    return [value for row in rows for value in row if str(value).startswith("file:")]


@pytest.mark.parametrize("copy", [False, True])
def test_a_moved_database_names_its_new_place_only(client, copy, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new %41 ?#"
    before = addresses(old / "mlflow/mlflow.db")
    shutil.copytree(old, new) if copy else old.rename(new)
    for original in old.rglob("MLmodel"):
        original.write_text("changed in the original")
    file = new / "mlflow" / "mlflow.db"
    assert has_moved(file)
    readdress(file)
    assert not has_moved(file)
    inside = [value for value in addresses(file) if (new / "mlflow/artifacts").as_uri() in value]
    assert len(inside) == len([value for value in before if "/old/" in value]) >= 3
    assert not [value for value in addresses(file) if "/old/" in value]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(file))
    moved = connect()
    (run,) = moved.search_runs([experiment_id(moved)])
    assert run.data.tags["note"].startswith("see ")  # other texts are the user's
    path = moved.download_artifacts(run.info.run_id, "model/MLmodel")
    assert Path(path).read_text() == "old"
    source = moved.get_model_version_download_uri("m", "1")
    assert Path(unquote(urlparse(source).path), "MLmodel").exists()
    kept = files(old) if copy else []
    further = moved.create_run(experiment_id(moved))
    moved.log_text(further.info.run_id, "new", "x.txt")
    assert (files(old) if copy else []) == kept
    assert (new / "mlflow/artifacts" / further.info.run_id).is_dir()


def test_a_moved_database_is_known_although_our_experiment_was_renamed(client, tmp_path):
    client.rename_experiment(experiment_id(client), "of last year")
    (tmp_path / "old").rename(tmp_path / "new")
    file = tmp_path / "new/mlflow/mlflow.db"
    assert has_moved(file)
    readdress(file)
    assert not has_moved(file)
    assert not [value for value in addresses(file) if "/old/" in value]


def test_addresses_that_were_never_beside_the_database_stay(client, tmp_path):
    file = tmp_path / "old/mlflow/mlflow.db"
    for elsewhere in ("s3://bucket/artifacts", "file:///elsewhere"):
        with sqlite3.connect(file) as database:
            database.execute("UPDATE experiments SET artifact_location = ? WHERE name = ?", [elsewhere, EXPERIMENT])
        before = addresses(file)
        readdress(file)
        assert addresses(file) == before


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # so that pages are written before the end of the transaction
database.execute("BEGIN")
for number in range(2000):
    database.execute("INSERT INTO experiments (name, artifact_location) VALUES (?, ?)", [f"x{number}", "x" * 200])
os._exit(9)
"""


def test_a_database_is_moved_although_a_run_was_killed_while_it_wrote(client, tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "old/mlflow/mlflow.db"], check=False)
    (tmp_path / "old").rename(tmp_path / "new")
    file = tmp_path / "new/mlflow/mlflow.db"
    assert file.with_name("mlflow.db-journal").stat().st_size
    assert has_moved(file)
    readdress(file)
    assert not has_moved(file)
    assert not [value for value in addresses(file) if "/old/" in value]


def test_a_database_of_the_user_in_a_work_directory_is_not_that_of_its_runs(tmp_path):
    claim(tmp_path / "my work", WORKDIR, "")
    own = database_uri(tmp_path / "my work/mlflow/mlflow.db")
    assert workdir_of(own) == tmp_path / "my work"
    assert mlflow_command(own) == f"cliptea ui --workdir '{tmp_path}/my work'"
    assert placeless_command(own) == "cliptea ui --workdir WORKDIR"
    for other in ("mlflow/other.db", "mine/mlflow.db", "mlflow.db"):
        uri = database_uri(tmp_path / "my work" / other)
        assert workdir_of(uri) is None
        assert mlflow_command(uri) == f"mlflow ui --backend-store-uri '{uri}'"
        assert str(tmp_path) not in placeless_command(uri)
    for command in (mlflow_command, placeless_command):
        assert command("http://localhost:5000") == "http://localhost:5000"


def test_a_database_that_cannot_be_changed_gives_one_line(client, tmp_path, monkeypatch):
    (tmp_path / "old").rename(tmp_path / "new")
    file = tmp_path / "new/mlflow/mlflow.db"
    monkeypatch.setattr("cliptea.tracking.database.WAIT_SECONDS", 0.1)
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
        other.execute("BEGIN IMMEDIATE")  # others can read and not write
        with pytest.raises(TrackingError, match=r"was moved, and its addresses cannot be changed .*locked"):
            readdress(file)
        other.execute("ROLLBACK")


WRITER = """
import sqlite3, sys
from cliptea.tracking.address import _of_file
from cliptea.tracking.database import database_uri
from pathlib import Path

file = Path(sys.argv[1])
database = sqlite3.connect(file, isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("CREATE TABLE IF NOT EXISTS t (n)")
assert _of_file(database_uri(file)) is None
print("checked", flush=True)
sys.stdin.read()
"""


def test_a_look_at_the_database_leaves_the_locks_of_its_process(tmp_path, empty_database):
    """A process that closes any handle of a file loses all its locks on it."""
    file = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    writer = subprocess.Popen([sys.executable, "-c", WRITER, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"checked\n"
    with sqlite3.connect(file, timeout=0, isolation_level=None) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        writer.communicate(timeout=60)
        other.execute("BEGIN IMMEDIATE")
