"""Work directories are marked as ours; nothing else is deleted or written to. No run is started here."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cliptea import __version__, progress, watchdog
from cliptea.errors import ClipteaError, ConfigError, StorageError
from cliptea.storage import FileStore, local_files
from cliptea.storage.local_files import (
    cache_folder,
    delete_partial_files,
    local_path,
    lock_file,
    partial_name,
    uri_path,
)
from cliptea.storage.marks import MARK, claim
from cliptea.tracking import database as database_module
from cliptea.tracking.address import EXPERIMENT
from cliptea.tracking.database import artifact_folder, database_uri, has_moved, require_database
from cliptea_pipeline import workdir as workdir_module
from cliptea_pipeline.cli import app
from cliptea_pipeline.mlflow_database import find_database
from cliptea_pipeline.opening import find_tracking
from cliptea_pipeline.own_files import require_own
from cliptea_pipeline.workdir import Workdir, held

ROOT = Path(__file__).parents[2]
RUN = "20260101-000000-1"


@pytest.fixture(autouse=True)
def own_temporary(tmp_path, monkeypatch):
    """No test sees temporary folders of other programs."""
    (tmp_path / "T").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "T"))
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def opened(root):
    workdir = Workdir(root)
    try:
        yield workdir
    finally:
        workdir.close()


def tree(folder):
    """Every path below the folder, with the content of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def add_experiment(root, database, location=None):
    """A database as a run leaves it."""
    (root / "mlflow").mkdir(parents=True, exist_ok=True)
    file = Path(shutil.copy(database, root / "mlflow/mlflow.db"))
    with sqlite3.connect(file) as connection:
        connection.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, 'active')",
            [EXPERIMENT, location or artifact_folder(file).as_uri()],
        )
    return file


FOREIGN = {
    "a project": ["logs/app.log", "run/experiment/weights.txt", "kfp/a/pipeline.yaml", "report.html"],
    "names like ours": [f"logs/{RUN}.log", f"run/{RUN}/temporary", "kfp/cliptea-2020-01-01/x", "store/x"],
    "one file": ["notes.txt"],
    "a hidden file": [".git/config"],
    "another mark": [MARK],
    "names of ours alone": [f"{name}/x" for name in ("store", "mlflow", "kfp", "logs", "run")],
}


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_of_somebody_else_is_refused_before_anything_is_touched(names, tmp_path):
    for name in names:
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_text(str(tmp_path / "theirs"))
    before = tree(tmp_path)
    with pytest.raises(StorageError, match=r"^the folder \S+ holds files that are not from cliptea; expected a folder"):
        Workdir(tmp_path / "theirs")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", ["", "lost+found", ".DS_Store"])
def test_a_new_or_empty_folder_is_marked_first(tmp_path, content):
    if content:
        (tmp_path / "w" / content).mkdir(parents=True)
    with opened(tmp_path / "w"):
        mark = json.loads((tmp_path / "w" / MARK).read_text())
        assert mark == {"kind": "work directory", "version": __version__}
    with opened(tmp_path / "w"):
        assert json.loads((tmp_path / "w" / MARK).read_text()) == mark
    assert list((tmp_path / "T").iterdir()) == []


def test_the_mark_must_be_of_a_work_directory(tmp_path):
    claim(tmp_path / "p", "folder of predictions", "")
    with pytest.raises(StorageError, match="p is a folder of predictions of cliptea; expected a folder that is new"):
        Workdir(tmp_path / "p")


def test_named_pipes_in_place_of_our_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / MARK)
    with pytest.raises(StorageError, match="not from cliptea"):
        Workdir(tmp_path)
    with opened(tmp_path / "w"):
        pass
    (tmp_path / "w/run" / RUN).mkdir()
    os.mkfifo(tmp_path / "w/run" / RUN / "temporary")
    with opened(tmp_path / "w"):
        assert not (tmp_path / "w/run" / RUN).exists()


def test_a_path_that_is_not_utf8_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="is not UTF-8; expected text in UTF-8"):
        Workdir(tmp_path / os.fsdecode(b"caf\xe9"))
    assert [path.name for path in tmp_path.iterdir()] == ["T"]


def test_only_our_own_leftovers_are_deleted(tmp_path):
    """Whatever the files in a work directory say, and wherever its folders lead."""
    root, victim = tmp_path / "w", tmp_path / "victim"
    (victim / "kfp/cliptea-2020-01-01").mkdir(parents=True)
    (victim / "data").write_text("precious")
    with opened(root):
        pass
    kept = []
    for number in range(30):
        (root / f"logs/app-{number}.log").write_text("")
        (root / f"logs/20200101-0000{number:02d}-1.log").write_text("")
        kept.append(f"logs/app-{number}.log")
    for name in ("run/experiment/weights.txt", "kfp/own/pipeline.yaml"):
        (root / name).parent.mkdir()
        (root / name).write_text("")
        kept.append(name)
    for planted in (RUN, "x"):
        (root / "run" / planted).mkdir()
        (root / "run" / planted / "temporary").write_text(str(victim))
    (root / "run/20260101-000000-2").symlink_to(victim)
    with opened(root) as workdir:
        assert not (root / "run" / RUN).exists()
        assert workdir.logs.is_dir()
    assert [name for name in kept if not (root / name).exists()] == []
    assert len(list((root / "logs").glob("2020*"))) < 20
    shutil.rmtree(root / "kfp")
    (root / "kfp").symlink_to(victim / "kfp")
    for number in range(5):
        (victim / f"kfp/cliptea-2021-{number}").mkdir()
    before = tree(victim)
    with opened(root):
        pass
    assert tree(victim) == before


def killed(root):
    Workdir(root)
    os._exit(9)


def test_the_temporary_folder_of_a_killed_run_is_deleted_by_the_next_one_but_not_by_a_copy(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed, args=(tmp_path / "w",))
    process.start()
    process.join()
    (left,) = (tmp_path / "T").iterdir()
    shutil.copytree(tmp_path / "w", tmp_path / "copy", ignore=shutil.ignore_patterns("alive"))
    with opened(tmp_path / "copy"):
        assert left.is_dir()
    with opened(tmp_path / "w"):
        assert not left.exists()


def test_incomplete_files_are_swept_once_their_writer_is_dead(tmp_path):
    with opened(tmp_path / "w"):
        pass
    folder = tmp_path / "w/store/split/0"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    dead, alive, young, foreign, linked = (
        folder / partial_name(), folder / partial_name(), folder / partial_name(), folder / ".partial-thesis.docx",
        tmp_path / "elsewhere" / partial_name(),
    )  # fmt: skip
    for file in (dead, alive, young, foreign, linked):
        file.write_text("")
        if file != young:
            os.utime(file, (1, 1))
    with alive.open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with opened(tmp_path / "w"):
            assert [file.exists() for file in (dead, alive, young, foreign, linked)] == [False, True, True, True, True]
    delete_partial_files(folder)
    assert not alive.exists()
    assert foreign.exists()


def test_the_work_directory_is_swept_once_and_a_store_elsewhere_is_left_to_the_first_step(tmp_path, monkeypatch):
    left = tmp_path / "own" / partial_name()
    left.parent.mkdir()
    left.write_text("")
    os.utime(left, (1, 1))
    swept = []
    monkeypatch.setattr(
        "cliptea_pipeline.workdir.delete_partial_files",
        lambda folder: (swept.append(folder), delete_partial_files(folder)),
    )
    for store in (tmp_path / "own", tmp_path / "w/store"):
        monkeypatch.setenv("CLIPTEA_STORE", store.as_uri())
        with opened(tmp_path / "w"):
            pass
    assert left.exists()
    assert swept == [tmp_path / "w"] * 2


def first(root, start, answers):
    start.wait()
    try:
        workdir = Workdir(root)
        answers.put("made")
        workdir.close()
    except ClipteaError as error:
        answers.put(str(error))


@pytest.mark.parametrize("name", ["lock", "tasks.lock", "."])
def test_a_link_in_place_of_a_lock_is_refused_and_its_target_stays(tmp_path, name):
    with opened(tmp_path / "w"):
        pass
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/lock").write_text("thesis")
    link, target = (tmp_path / "w/run", "precious") if name == "." else (tmp_path / "w/run" / name, "precious/lock")
    shutil.rmtree(link) if name == "." else link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / target)
    before = tree(tmp_path)
    for use in (lambda: Workdir(tmp_path / "w"), lambda: held(tmp_path / "w").__enter__()):
        with pytest.raises(StorageError, match=f"{link} is a link; .*delete the link") as refused:
            use()
        assert "\n" not in str(refused.value)
    assert tree(tmp_path) == before


def test_no_lock_is_made_where_a_link_leads(tmp_path):
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(StorageError, match=r"lock is a link; expected a file"), lock_file(tmp_path / "lock", ""):
        pass
    assert [path.name for path in tmp_path.iterdir() if path.name != "T"] == ["lock"]


def test_two_first_runs_never_take_each_other_for_somebody_else(tmp_path):
    context = multiprocessing.get_context("fork")
    for number in range(10):
        start, answers = context.Event(), context.SimpleQueue()
        processes = [context.Process(target=first, args=(tmp_path / str(number), start, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        start.set()
        told = [answers.get() for _ in processes]
        for process in processes:
            process.join()
        assert told == ["made"] * 4


NO_PATHS = [
    "",
    " ",
    "s3://bucket/work",
    "gs://bucket/x",
    "file:///tmp/x",
    "s3:/bucket",
    " s3://b/x",
    "S3:b/x",
    "~nobody0/x",
]


@pytest.mark.parametrize("given", NO_PATHS)
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--preset", "smoke", "--workdir"],
        ["predict", ".", "--model", "models:/x@champion", "--workdir"],
        ["predict", ".", "--model", "models:/x@champion", "-o"],
        ["export", "--model", "models:/x@champion", "-o", "a.onnx", "--workdir"],
        ["export", "--model", "models:/x@champion", "-o"],
        ["rollback", "--model", "x", "--workdir"],
        ["ui", "--workdir"],
        ["compile", "-o"],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_what_names_no_local_path_is_refused_in_one_line(arguments, given, tmp_path, monkeypatch):
    if (arguments[0], arguments[-1], given) == ("predict", "-o", "s3://bucket/work"):
        pytest.skip("predict can write to S3")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ended = CliRunner().invoke(app, [*arguments, given])
    assert ended.exit_code == 2, ended.output
    assert ended.stderr.startswith(f"error: {arguments[-1]} ")
    assert "expected a path on this machine" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_the_home_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLIPTEA_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "home/cache"
    assert local_path("--workdir", "~") == tmp_path / "home"
    assert local_path("--workdir", "./~/x") == Path("./~/x")
    monkeypatch.delenv("CLIPTEA_CACHE")
    for given in ("s3://bucket/cache", "~/other", "other", ""):  # only absolute paths count, as its specification says
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder() == tmp_path / "home/.cache/cliptea"


@pytest.mark.parametrize("given", ["a b", "a:b", "./s3:/x", "ä?#%", "/tmp/x://y", "C:", "a~", "s3"])
def test_other_paths_are_taken_as_they_are(given):
    assert local_path("--workdir", given) == Path(given)


def test_a_uri_names_exactly_one_path(tmp_path):
    for name in ("a b", "a?b", "a#b", "a%41b", "a;b", "ä"):
        assert uri_path((tmp_path / name).as_uri()) == tmp_path / name
    assert uri_path("file:///a;b/c;d") == Path("/a;b/c;d")
    for uri in ("file://host/x", "file:x", "file:///a#b", "file:///a?b", "file://me:secret@host/x?token=secret"):
        with pytest.raises(StorageError) as told:
            uri_path(uri)
        assert "secret" not in str(told.value)


def test_predictions_never_go_into_a_folder_of_somebody_else(tmp_path):
    output = tmp_path / "out"
    (output / "masks").mkdir(parents=True)
    (output / "masks/a.png").write_text("precious")
    before = tree(tmp_path)
    ended = CliRunner().invoke(app, ["predict", str(tmp_path), "--model", str(tmp_path), "-o", str(output)])
    assert ended.exit_code == 1
    assert ended.stderr == (
        f"error: the folder {output} holds files that are not from cliptea; expected a folder that is new, empty, or "
        "already a folder of predictions; choose another one with -o\n"
    )
    assert tree(tmp_path) == before


@contextmanager
def refused_waiting(file, monkeypatch):
    """Hold the lock of a file as another process does, until the one that waits has looked three times."""
    looks = []
    with file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def look(seconds):
            looks.append(watchdog.alive.calls)
            if len(looks) == 3:
                file.unlink()  # as the other process does at its end
                fcntl.flock(other, fcntl.LOCK_UN)

        def alive(seconds=0.0):
            alive.calls += 1

        alive.calls = 0
        monkeypatch.setattr(watchdog, "alive", alive)
        monkeypatch.setattr(local_files.time, "sleep", look)
        yield looks


def test_waiting_for_a_scratch_folder_is_told_once_and_is_no_halt(tmp_path, monkeypatch):
    store, told = FileStore(tmp_path / "store"), []
    with store.scratch("teacher-1"), store.scratch("teacher-2"):  # which do not wait for each other
        pass
    assert list((tmp_path / "store/scratch").iterdir()) == []
    file = tmp_path / "store/scratch/teacher-1.lock"
    monkeypatch.setattr(progress, "note", told.append)
    with refused_waiting(file, monkeypatch) as looks, store.scratch("teacher-1") as folder:
        assert folder.is_dir()
        assert file.exists()
    assert told == [f"waiting for another process that works in {folder}"]
    assert looks == [1, 2, 3]
    assert list((tmp_path / "store/scratch").iterdir()) == []


def test_a_lock_of_another_program_on_the_database_is_told_and_one_that_ends_soon_is_waited_for(
    tmp_path, empty_database, monkeypatch
):
    with opened(tmp_path / "w"):
        add_experiment(tmp_path / "w", empty_database)
    file = tmp_path / "w/mlflow/mlflow.db"
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with monkeypatch.context() as patched:
            patched.setattr("cliptea.tracking.database.WAIT_SECONDS", 0.1)
            for use in (find_database, Workdir):
                with pytest.raises(StorageError, match=f"database {file} cannot be used: another program.*close that"):
                    use(tmp_path / "w")
        release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        release.start()
        assert find_database(tmp_path / "w") == file
        release.join()
    with opened(tmp_path / "w"):  # the lock of the work directory is free again
        pass


def test_commands_put_a_moved_work_directory_in_order(tmp_path, empty_database):
    with opened(tmp_path / "old"):
        add_experiment(tmp_path / "old", empty_database)
    (tmp_path / "old").rename(tmp_path / "new")
    file = tmp_path / "new/mlflow/mlflow.db"
    with (tmp_path / "new/run/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ClipteaError, match=r"another run .* is using .*new; wait for it"):
            find_database(tmp_path / "new")
    assert has_moved(file)
    shutil.rmtree(tmp_path / "new/run")  # a backup may lack it
    assert find_database(tmp_path / "new") == file
    assert not has_moved(file)
    (tmp_path / "new").rename(tmp_path / "newer")
    with opened(tmp_path / "newer") as workdir:
        assert not has_moved(tmp_path / "newer/mlflow/mlflow.db")
        assert workdir.tracking_uri == database_uri(tmp_path / "newer/mlflow/mlflow.db")


def test_a_moved_work_directory_that_cannot_be_written_is_one_line(tmp_path, empty_database, monkeypatch):
    with opened(tmp_path / "old"):
        add_experiment(tmp_path / "old", empty_database)
    (tmp_path / "old").rename(tmp_path / "new")

    def refused(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(workdir_module.os, "open", refused)
    with pytest.raises(StorageError, match=r"^cannot use \S+/new: this user may not do that"):
        find_database(tmp_path / "new")


def test_a_moved_database_in_the_environment_is_put_in_order(tmp_path, empty_database, monkeypatch):
    with opened(tmp_path / "old"):
        add_experiment(tmp_path / "old", empty_database)
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    file = tmp_path / "copy/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(file))
    assert has_moved(file)
    find_tracking(tmp_path / "another")
    assert not has_moved(file)
    add_experiment(tmp_path / "not ours", empty_database, artifact_folder(file).as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(tmp_path / "not ours/mlflow/mlflow.db"))
    find_tracking(tmp_path / "another")
    assert has_moved(tmp_path / "not ours/mlflow/mlflow.db")


def test_a_report_of_the_user_in_a_work_directory_is_not_replaced(tmp_path):
    with opened(tmp_path / "w") as workdir:
        workdir.keep({"report.html": b"first"})
    with opened(tmp_path / "w"):
        assert (tmp_path / "w/report.html").read_text() == "first"
    copy = shutil.copytree(tmp_path / "w", tmp_path / "copy", symlinks=False)
    with opened(copy) as workdir:  # where the link has become a file
        workdir.keep({"report.html": b"second"})
    assert (copy / "report.html").read_text() == "second"
    (copy / "results.json").mkdir()
    with pytest.raises(StorageError, match=r"copy/results.json is not from cliptea.*move it elsewhere, or choose"):
        Workdir(copy)
    (copy / "results.json").rmdir()
    (copy / "report.html").unlink()
    (copy / "report.html").write_text("mine")
    with pytest.raises(StorageError, match=r"copy/report.html is not from cliptea"):
        Workdir(copy)
    assert (copy / "report.html").read_text() == "mine"


def test_a_report_that_cannot_be_linked_is_one_line(tmp_path):
    with opened(tmp_path / "w") as workdir:
        (tmp_path / "w/report.html").mkdir()
        with pytest.raises(StorageError, match=r"cannot use .*/w/report.html: "):
            workdir.keep({"report.html": b"late"})


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize(
    "where", ["workdir.readdress", "temporary.tempfile.mkdtemp", "workdir.os.mkfifo", "workdir.os.truncate"]
)
def test_a_work_directory_that_could_not_be_opened_is_free_again(tmp_path, monkeypatch, where, error):
    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"cliptea_pipeline.{where}", fail)
        with pytest.raises((KeyboardInterrupt, StorageError)) as caught:
            Workdir(tmp_path / "w")
    if where.endswith("mkdtemp") and isinstance(error, OSError):
        assert str(caught.value) == (
            "cannot make a temporary folder: the disk is full; set TMPDIR to a folder with free space"
        )
    elif isinstance(error, OSError):
        assert str(caught.value).startswith(f"cannot use the work directory {tmp_path}/w: No space left on device")
    assert list((tmp_path / "T").iterdir()) == []

    def refused(seconds):
        raise AssertionError("it waits for itself")

    monkeypatch.setattr(workdir_module.time, "sleep", refused)
    with opened(tmp_path / "w") as workdir:
        assert workdir.temporary.is_dir()


def test_a_full_temporary_folder_is_not_blamed_on_the_work_directory(tmp_path, monkeypatch):
    def full(folder, kind, todo, **facts):
        if kind == "temporary folder":
            raise StorageError(f"cannot use {folder}: the disk is full", "space")
        claim(folder, kind, todo)

    monkeypatch.setattr("cliptea_pipeline.temporary.claim", full)
    with pytest.raises(StorageError, match=rf"^cannot use {tmp_path}/T/.*: the disk is full; .*set TMPDIR"):
        Workdir(tmp_path / "w")
    assert list((tmp_path / "T").iterdir()) == []


def as_on_nfs(monkeypatch):
    """Locks as NFS grants them: exclusive ones only for what is open for writing."""
    lock = fcntl.flock

    def flock(file, how):
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_on_nfs_incomplete_files_of_killed_runs_are_deleted(tmp_path, monkeypatch):
    as_on_nfs(monkeypatch)
    dead, alive = tmp_path / partial_name(), tmp_path / partial_name()
    dead.touch()
    with alive.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for path in (dead, alive):
            os.utime(path, (0, 0))
        delete_partial_files(tmp_path)
        assert list(tmp_path.glob(".partial-*")) == [alive]


def test_on_nfs_only_one_process_makes_the_database(tmp_path, monkeypatch):
    as_on_nfs(monkeypatch)
    made, file = [], tmp_path / "mlflow/mlflow.db"

    def make(file):
        with (tmp_path / "mlflow/.mlflow.db.lock").open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made.append(file)

    monkeypatch.setattr(database_module, "_make", make)
    require_database(file)
    assert made == [file]
    assert list(file.parent.iterdir()) == []


def test_a_work_directory_is_the_same_by_every_path_to_it(tmp_path, empty_database):
    with opened(tmp_path / "w"):
        file = add_experiment(tmp_path / "w", empty_database)
    (tmp_path / "link").symlink_to(tmp_path / "w")
    assert find_database(tmp_path / "link") == file
    with opened(tmp_path / "link") as workdir:
        assert workdir.store == tmp_path / "w/store"


def make(folder, *arguments):
    return subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "name", ["my data", "a'b", 'a"b;touch x', "$(touch x)", "a$b", "$(shell touch x)y", "$$", "-rf"]
)
def test_make_clean_removes_the_folder_that_is_named_and_no_other(name, tmp_path):
    root = tmp_path / name
    for folder in (root, tmp_path / "my", tmp_path / "data", tmp_path / "a"):
        folder.mkdir(exist_ok=True)
    refused = make(tmp_path, "clean", f"WORKDIR={name}")
    assert refused.returncode
    assert "is not a work directory of cliptea" in refused.stderr
    assert "run cliptea with it once, which marks it, or remove it by hand" in refused.stderr
    claim(root, "work directory", "")
    cleaned = make(tmp_path, "clean", f"WORKDIR={name}")
    assert cleaned.returncode == 0, cleaned.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["T", "a", "data", "my"]
    assert make(tmp_path, "clean", f"WORKDIR={name}").returncode == 0


def test_make_clean_removes_nothing_that_cliptea_has_not_made_and_waits_for_runs(tmp_path):
    with opened(tmp_path / "w") as workdir:
        workdir.keep({"report.html": b"", "results.json": b"[]"})
        workdir.images.mkdir()
        before = sorted(tmp_path.rglob("*"))
        refused = make(tmp_path, "clean", "WORKDIR=w")
        assert (refused.returncode, "a run is using w; wait for it" in refused.stderr) == (2, True)
        assert sorted(tmp_path.rglob("*")) == before
    with (tmp_path / "w/run/tasks.lock").open("w") as tasks:  # of a step whose run was killed
        fcntl.flock(tasks, fcntl.LOCK_SH)
        assert make(tmp_path, "clean", "WORKDIR=w").returncode
    for name in ("notes.md", "*", "a\nstore", "store2"):
        (tmp_path / "w" / name).touch()
    before = sorted(tmp_path.rglob("*"))
    refused = make(tmp_path, "clean", "WORKDIR=w")
    assert refused.returncode
    (line,) = [line for line in refused.stderr.splitlines() if "w holds files that cliptea has not made: " in line]
    assert sorted(line.partition(": ")[2].split()) == ["*", "a\\nstore", "notes.md", "store2"]
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("notes.md", "*", "a\nstore", "store2"):
        (tmp_path / "w" / name).unlink()
    (tmp_path / "w/.DS_Store").touch()
    assert make(tmp_path, "clean", "WORKDIR=w").returncode == 0
    assert not (tmp_path / "w").exists()


def test_make_clean_leaves_other_marked_folders(tmp_path):
    claim(tmp_path / "p", "folder of predictions", "")
    assert make(tmp_path, "clean", "WORKDIR=p").returncode
    assert (tmp_path / "p" / MARK).exists()


def test_named_pipes_and_devices_are_no_earlier_files(tmp_path):
    os.mkfifo(tmp_path / "page.html")
    for odd in (tmp_path / "page.html", Path("/dev/null"), tmp_path):
        with pytest.raises(ConfigError, match=f"{odd} exists and is not such a page"):
            require_own(odd, lambda file: True, "such a page")


def test_an_export_replaces_only_an_earlier_export(tmp_path):
    from cliptea_pipeline.export_cli import _require_exportable as require_exportable

    file, facts = tmp_path / "model.onnx", tmp_path / "model.json"
    require_exportable(file)
    for foreign, what in ((facts, "an earlier export"), (file, "an unchanged file of an earlier export")):
        foreign.write_text('{"inputs": "of somebody else"}')
        with pytest.raises(ConfigError, match=f"{foreign.name} exists and is not {what}"):
            require_exportable(file)
        foreign.unlink()
    written = {"inputs": "", "output": "", "steps": [], "classes": [], "size": None}
    file.write_bytes(b"network")
    facts.write_text(json.dumps(written | {"files": {file.name: hashlib.sha256(b"network").hexdigest()}}))
    require_exportable(file)
    for other in (".pt2", ".xml"):  # it would leave model.onnx with facts of another file
        with pytest.raises(ConfigError, match=r"model\.json describes model\.onnx; expected a file name of its own"):
            require_exportable(file.with_suffix(other))
    file.write_bytes(b"another network")
    with pytest.raises(ConfigError, match=r"model\.onnx exists and is not an unchanged file of an earlier export"):
        require_exportable(file)
    file.unlink()
    require_exportable(file.with_suffix(".pt2"))
    (tmp_path / "model.pt2").write_bytes(b"of somebody else")
    with pytest.raises(ConfigError, match=r"model\.pt2 exists and is not an unchanged file of an earlier export"):
        require_exportable(file.with_suffix(".pt2"))
    facts.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"model\.json exists and is not an earlier export"):
        require_exportable(file)
    facts.unlink()
    os.mkfifo(facts)
    with pytest.raises(ConfigError, match="is not an earlier export"):
        require_exportable(file)


def test_an_export_never_goes_into_a_bundle(tmp_path):
    claim(tmp_path / "bundle", "bundle of a model", "")
    arguments = ["export", "--model", "models:/x@champion", "-o", str(tmp_path / "bundle/model.onnx")]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2, ended.output
    assert "bundle is a bundle of a model; expected another folder; choose another one with -o" in ended.stderr


def test_a_link_in_place_of_mlflows_folder_is_refused(tmp_path, empty_database):
    """A copy of the work directory has the same link, and would change the database of the original."""
    with opened(tmp_path / "w"):
        pass
    (tmp_path / "w/mlflow").rename(tmp_path / "elsewhere")
    (tmp_path / "w/mlflow").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"mlflow is a link; expected a folder; .*MLFLOW_TRACKING_URI"):
        Workdir(tmp_path / "w")
    add_experiment(tmp_path / "w", empty_database, "file:///nowhere/mlflow/artifacts")
    before = tree(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="mlflow is a link"):
        find_database(tmp_path / "w")
    assert tree(tmp_path / "elsewhere") == before
