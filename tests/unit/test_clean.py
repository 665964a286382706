"""The command `cliptea clean` on a work directory with a real MLflow. Nothing is trained here."""

import errno
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import NamedTuple

import past_runs
import pytest
from mlflow import MlflowClient
from past_runs import add_run, add_variant, keys, output
from typer.testing import CliRunner

from cliptea import progress
from cliptea.errors import ConfigError
from cliptea.manifest import Output
from cliptea.steps.store_folder import claim_store
from cliptea.storage import FileStore
from cliptea.storage.local_files import local_path, lock_file, partial_name
from cliptea.storage.marks import claim, claim_cache
from cliptea.tracking.database import database_uri
from cliptea_pipeline.clean_cli import seconds_of
from cliptea_pipeline.cli import app
from cliptea_pipeline.workdir import Workdir

DAY = 86400


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    """Nothing of the user's is named or found."""
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI", "KFP_ENDPOINT", "CLIPTEA_EVENTS"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path, empty_database):
    """A work directory without runs."""
    root = tmp_path / "work"
    claim(root, "work directory", "")
    for name in ("mlflow", "store", "run", "logs", "kfp"):
        (root / name).mkdir()
    shutil.copy(empty_database, root / "mlflow/mlflow.db")
    return root


@pytest.fixture
def client(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(root / "mlflow/mlflow.db"))
    client = MlflowClient()
    past_runs.experiment_id(client)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return client


@pytest.fixture
def store(root):
    return FileStore(root / "store")


class World(NamedTuple):
    """What six runs have left: their outputs, and their ids in MLflow."""

    outputs: dict[str, Output]
    runs: dict[str, str]

    def gone(self, found):
        """Those of the keys that belong to the old and the killed run alone, and shards of the earlier model."""
        alone = [self.outputs[name].prefix for name in ("old", "killed", "split", "both", "views")]
        ended = [self.runs[name] for name in ("old", "killed")]
        marks = [
            *(f"{prefix}/" for prefix in alone),
            *(f"/{run}/" for run in ended),
            *(f"task-{run}/" for run in ended),
        ]
        return {key for key in found if any(mark in key for mark in marks) and not key.endswith("notes.txt")}


@pytest.fixture
def world(client, store):
    """An old run, two with registered models, a running one, the newest, and a killed one. All share tokens."""
    names = ("old", "registered", "running", "new", "killed", "earlier")
    made = {name: output("train", name) for name in names}
    made |= {"shared": output("tokens", "shared"), "split": output("split", "old"), "both": output("text", "both")}
    made |= {"views": output("regions", "earlier")}
    for each in made.values():
        past_runs.make(store, each)
    ended = {"old": ("FINISHED", 48), "registered": ("FINISHED", 72), "running": ("RUNNING", 0), "new": ("FINISHED", 1)}
    ended |= {"earlier": ("FINISHED", 90)}
    runs = {name: add_run(client, *how) for name, how in (ended | {"killed": ("KILLED", 60)}).items()}
    past_runs.register(client, add_variant(client, runs["registered"]), "s3://models/1")
    past_runs.register(client, add_variant(client, runs["earlier"]), "s3://models/0")
    client.set_registered_model_alias("cliptea-world", "champion", "1")
    own = {"old": ("old", "shared", "split", "both"), "killed": ("killed", "shared", "both")}
    own |= {"earlier": ("earlier", "shared", "views")}
    for name, run in runs.items():
        past_runs.record(store, run, [made[one] for one in own.get(name, (name, "shared"))])
    for name in ("notes.txt", "train/notes.txt", f"{made['old'].prefix}/notes.txt"):
        store.put(name, b"mine")
    return World(made, runs)


def call(*arguments):
    return CliRunner().invoke(app, ["clean", "--workdir", "work", *arguments])


def tree(folder):
    """Every path with its kind, size, time and content."""
    return {
        path: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(Path(folder).rglob("*"))
    }


def test_a_dry_run_changes_nothing_and_shows_all_that_would_go(world, store, tmp_path):
    before = tree(tmp_path)
    answer = call()
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert tree(tmp_path) == before
    assert re.search(r"^ *train +2 +6 +", answer.stdout, re.MULTILINE)
    assert re.search(r"^ *split +1 +15 +", answer.stdout, re.MULTILINE)
    assert re.search(r"^ *text +1 +2 +", answer.stdout, re.MULTILINE)
    assert re.search(r"^ *records of runs +4 +8 +", answer.stdout, re.MULTILINE)
    assert "not ours: 3 objects that no list of a run names, 12 B; never deleted" in answer.stdout
    assert (
        f"the run {world.runs['registered']}, because cliptea-world version 1 (champion) comes from it" in answer.stdout
    )
    assert f"models and results of the run {world.runs['earlier']}, because cliptea-world version 2" in answer.stdout
    assert f"the run {world.runs['running']}, because it is running" in answer.stdout
    assert answer.stdout.endswith("nothing was deleted; add --yes to delete this\n")


def test_the_sizes_are_those_of_the_files(world, store, root):
    sizes = {key: (root / "store" / key).stat().st_size for key in keys(store)}
    split = sum(size for key, size in sizes.items() if key.startswith(f"{world.outputs['split'].prefix}/"))
    assert re.search(rf"^ *split +1 +15 +{split / 1024:.1f} KiB *$", call().stdout, re.MULTILINE)


def test_yes_deletes_what_no_kept_run_needs_and_nothing_else(world, store, tmp_path):
    before, beside = keys(store), {**tree("work/mlflow"), **tree("work/logs"), **tree("work/kfp")}
    gone = world.gone(before)
    assert len(gone) == 6 + 15 + 2 + 8 + 8
    answer = call("--yes")
    assert answer.exit_code == 0, answer.stderr
    assert f"deleted {len(gone)} objects of the store" in answer.stdout
    assert keys(store) == before - gone
    assert {**tree("work/mlflow"), **tree("work/logs"), **tree("work/kfp")} == beside
    folders = {path.name for path in (tmp_path / "work/store").rglob("*") if path.is_dir()}
    assert world.outputs["killed"].fingerprint not in folders
    assert world.outputs["old"].fingerprint in folders  # where somebody has put a file
    assert "there is nothing to delete" in call("--yes").stdout
    assert keys(store) == before - gone


def test_what_was_killed_halfway_is_finished_by_the_next_call(world, store, monkeypatch):
    before, deleted, delete = keys(store), [], FileStore.delete

    def die(self, key):
        if len(deleted) == 9:
            raise KeyboardInterrupt
        deleted.append(key)
        delete(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", die)
        answer = call("--yes")
    assert (answer.exit_code, answer.stderr.splitlines()[-1]) == (130, "stopped")
    assert keys(store) == before - set(deleted)
    assert past_runs.complete(store)
    assert call("--yes").exit_code == 0
    assert keys(store) == before - world.gone(before)


def test_keep_and_older_than_keep_more(world, store):
    before = keys(store)
    for more in (["--keep", "2"], ["--older-than", "3d"]):
        assert call("--yes", *more).exit_code == 0
        left = keys(store)
        killed_goes = more[0] == "--keep"
        assert (f"{world.outputs['killed'].prefix}/manifest.json" not in left) == killed_goes
        assert world.outputs["old"].manifest_key in left
        assert world.outputs["both"].manifest_key in left
        for key in before - left:
            store.put(key, b"{}")
        past_runs.make(store, world.outputs["killed"])
        past_runs.make(store, world.outputs["views"])
        past_runs.record(store, world.runs["killed"], [world.outputs[name] for name in ("killed", "shared", "both")])


def one_line(answer, code, text):
    assert answer.exit_code == code
    assert answer.stderr.count("\n") == 1
    assert re.search(text, answer.stderr), answer.stderr


def _without_locks(found):
    return {path: state for path, state in found.items() if "run" not in path.parts}


@pytest.mark.parametrize("yes", [[], ["--yes"]])
class TestRefused:
    """One line, and nothing is changed."""

    @pytest.fixture(autouse=True)
    def _unchanged(self, world, tmp_path):
        self.before = None
        yield
        assert self.before is not None
        assert _without_locks(tree(tmp_path)) == _without_locks(self.before)

    def refused(self, yes, code, text):
        self.before = tree(Path.cwd())
        one_line(call(*yes), code, text)

    def test_a_folder_without_our_mark(self, yes, root):
        (root / "cliptea.json").unlink()
        self.refused(yes, 1, "the folder work is not a work directory of cliptea; expected a folder that `cliptea run`")

    def test_a_folder_with_another_mark(self, yes, root):
        (root / "cliptea.json").write_text('{"kind": "folder of predictions"}')
        self.refused(yes, 1, "the folder work is not a work directory")

    def test_a_work_directory_without_a_database(self, yes, root):
        (root / "mlflow/mlflow.db").unlink()
        self.refused(yes, 1, "the MLflow database .* does not exist, so it is unknown which outputs its")

    def test_an_mlflow_that_does_not_answer(self, yes, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        self.refused(yes, 1, "MLflow does not answer at http://127.0.0.1:9")

    def test_a_kept_run_without_a_list(self, yes, world, store):
        for entry in list(store.entries(f"uses/{world.runs['new']}")):
            store.delete(entry.key)
        self.refused(yes, 1, f"it is unknown what the MLflow run {world.runs['new']} uses: .* no list .*run it again")

    def test_a_kept_run_with_a_damaged_list(self, yes, world, store):
        (entry,) = store.entries(f"uses/{world.runs['new']}")
        store.put(entry.key, b"{}")
        self.refused(yes, 1, f"it is unknown what the MLflow run {world.runs['new']} uses: .*cannot be read")

    def test_runs_of_a_cluster_without_pipelines(self, yes, world, client):
        client.set_tag(world.runs["old"], "cliptea.run", "job-1")
        self.refused(yes, 2, "its schedules are not known here; .* add --endpoint, or set KFP_ENDPOINT")


def test_an_mlflow_that_knows_none_of_the_runs_keeps_them_all(world, store, tmp_path, empty_database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, tmp_path / 'other.db')}")
    before = keys(store)
    answer = call("--yes", "--keep", "0")
    assert answer.exit_code == 0
    assert answer.stdout.count("because MLflow does not know it") == 6
    assert keys(store) == before


def test_nothing_is_deleted_while_a_run_uses_the_folder(world, store):
    workdir, before = Workdir(Path("work")), keys(store)
    try:
        one_line(call("--yes"), 1, f"another run .process {os.getpid()} on {socket.gethostname()}. is using work")
        assert call().exit_code == 0
    finally:
        workdir.close()
    assert keys(store) == before
    assert call("--yes").exit_code == 0
    Workdir(Path("work")).close()  # the lock is free again


def test_the_store_that_the_environment_names_is_cleaned(world, store, tmp_path, monkeypatch):
    shared = FileStore(tmp_path / "shared")
    claim_store(shared)
    shutil.copytree(tmp_path / "work/store", shared.root, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "work/store")
    monkeypatch.setenv("CLIPTEA_STORE", shared.root.as_uri())
    before = keys(shared)
    left = shared.root / partial_name()
    left.touch()
    os.utime(left, (1, 1))
    assert call().exit_code == 0
    assert left.exists()
    assert call("--yes").exit_code == 0
    assert not left.exists()
    assert keys(shared) == before - world.gone(before)


@pytest.mark.parametrize("age", ["30", "d", "-1d", "30 d", "1.5d", "30m", "9999999d", ""])
def test_an_age_that_cannot_be_read_is_one_line(age, world):
    one_line(call("--older-than", age), 2, "cannot read --older-than .*; expected hours, days or weeks")


def test_ages():
    assert [seconds_of(age) for age in ("0h", "12h", "30d", "8w")] == [0, 12 * 3600, 30 * DAY, 56 * DAY]
    with pytest.raises(ConfigError):
        seconds_of("1y")


def test_what_the_cache_has_not_used_for_a_day_goes_with_it(root, client, tmp_path):
    cache = claim_cache()
    version = "0123456789abcdef0123456789abcdef"
    old = {f"s3/bucket/weights.pt/{version}/weights.pt", f"shards/{'a' * 64}", f"s3/b/c/{version}-2/d/e"}
    old |= {"scratch/bucket/run/demo-teacher-0123456789abcdef/pretraining.ckpt"}
    kept = {f"s3/bucket/new.pt/{version}/new.pt", f"shards/{'b' * 64}", "shards/.lock", "s3/notes.txt", "notes.txt"}
    kept |= {"s3/bucket/notes/notes.txt", "shards/notes", f"{version}/notes.txt"}
    young = [name for name in kept if "new.pt" in name or "b" * 64 in name]
    for name in old | kept:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x" * 5000)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.txt").write_text("mine")
    (cache / f"s3/bucket/weights.pt/{version}/link").symlink_to(tmp_path / "elsewhere")
    for path in sorted(cache.rglob("*"), reverse=True):
        if not any(path in [cache / name, *(cache / name).parents] for name in young):
            os.utime(path, (time.time() - 2 * DAY,) * 2, follow_symlinks=False)
    before = tree(tmp_path)
    answer = call()
    assert tree(tmp_path) == before
    assert re.search(r"^ *cache of this machine +4 +\d", answer.stdout, re.MULTILINE)
    assert "nothing to delete" in call("--older-than", "3d", "--yes").stdout
    assert call("--yes").exit_code == 0
    left = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    assert left == kept | {"cliptea.json"}
    assert (tmp_path / "elsewhere/mine.txt").read_text() == "mine"


def test_what_another_user_has_cached_stays(root, client, tmp_path, monkeypatch):
    """On a shared machine, the folders of one user cannot be changed by another."""
    cache, version = claim_cache(), "0123456789abcdef0123456789abcdef"
    theirs = [cache / "shards" / ("a" * 64), cache / f"s3/bucket/x.pt/{version}/x.pt"]
    mine = [cache / "shards" / ("b" * 64), cache / f"s3/bucket/y.pt/{version}/y.pt"]
    for file in theirs + mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 5000)
        os.utime(file, (0, 0))
        os.utime(file.parent, (0, 0))
    unlink, told = Path.unlink, []

    def refused(self, missing_ok=False):
        if self in theirs:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.setattr(progress, "note", told.append)
    answer = call("--yes")
    assert answer.exit_code == 0, answer.output
    assert re.search(r"deleted 0 objects of the store, 0 B, and (1|2)\d\.\d KiB of the cache", answer.stdout)
    why = "because they belong to another user, are in use, or were just used"
    assert told == [f"2 of 4 objects of the cache were not deleted, {why}"]
    assert [file.exists() for file in theirs + mine] == [True, True, False, False]


def test_a_cache_without_our_mark_is_left(root, client, tmp_path):
    file = local_path("cache", str(tmp_path / "cache")) / "shards" / ("a" * 64)
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    os.utime(file, (0, 0))
    assert "there is nothing to delete" in call("--yes").stdout
    assert file.exists()


def test_unfinished_work_that_a_process_holds_stays_in_the_cache(root, client, tmp_path):
    folder = claim_cache() / "scratch/bucket/demo-teacher-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "pretraining.ckpt").write_bytes(b"x")
    for path in (folder / "pretraining.ckpt", folder):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    with lock_file(folder.with_name(f"{folder.name}.lock"), "works"):
        assert call("--yes").exit_code == 0
        assert folder.exists()
    assert call("--yes").exit_code == 0
    assert not folder.exists()
