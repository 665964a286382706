"""A store outside of a work directory is marked as ours before a run writes to it, and only then swept."""

import fcntl
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cliptea import __version__
from cliptea.errors import StorageError
from cliptea.steps.common import run_step
from cliptea.steps.store_folder import FOLDERS, claim_store, delete_partial_objects, require_free_store
from cliptea.storage import FileStore
from cliptea.storage.local_files import partial_name
from cliptea.storage.marks import MARK, WORKDIR, claim

HOUR = 3600.0


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("content", [None, "", "lost+found", ".DS_Store", f".partial-{'0' * 32}"])
def test_a_new_or_empty_folder_is_marked_and_the_mark_is_no_object(tmp_path, closed, content):
    store = FileStore(tmp_path / "a/store")
    if content is not None:
        (store.root / content).mkdir(parents=True)
    claim_store(store)
    before = tree(store.root)
    assert json.loads(before[store.root / MARK]) == {"kind": "store", "version": __version__}
    store.put("split/x", b"1")
    store.put(f"split/{MARK}", b"2")  # only the root has a mark
    claim_store(store)
    assert before.items() <= tree(store.root).items()
    (store.root / "lost+found").mkdir(exist_ok=True)
    closed("lost+found")
    assert [entry.key for entry in store.entries("")] == [f"split/{MARK}", "split/x"]


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", MARK, "data/0123456789abcdef/manifest.json"])
def test_a_folder_of_somebody_else_is_refused_and_stays_as_it_was(tmp_path, monkeypatch, name):
    for path in (tmp_path / name, tmp_path / "split/x"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    store, before = FileStore(tmp_path), tree(tmp_path)
    for accept in (claim_store, require_free_store):
        with pytest.raises(StorageError) as caught:
            accept(store)
        assert str(caught.value) == (
            f"the folder {tmp_path} holds files that are not from cliptea; expected a folder that is new, empty, or "
            f"already a store; move {name.partition('/')[0]} elsewhere, or set CLIPTEA_STORE to another one"
        )
    monkeypatch.setenv("CLIPTEA_STORE", tmp_path.as_uri())
    monkeypatch.setenv("CLIPTEA_STALL_MINUTES", "0")  # no watchdog in this process
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)  # as on a cluster, where steps post their status to the store
    run_step("resolve", lambda: None, job_id="job")
    assert tree(tmp_path) == before


def test_a_store_that_has_no_mark_yet_is_taken_and_the_folder_of_another_purpose_is_not(tmp_path):
    store = FileStore(tmp_path / "old")
    for folder in FOLDERS:
        store.put(f"{folder}/x", b"1")
    claim(store.root / ".cliptea", WORKDIR, "")  # the work directory of the run may be in it
    claim_store(store)
    assert (store.root / MARK).is_file()
    claim(tmp_path / "cache", "cache", "")
    with pytest.raises(StorageError, match="is a cache of cliptea; expected a folder that is new, empty, or already a"):
        claim_store(FileStore(tmp_path / "cache"))


def test_two_first_runs_take_the_same_folder_at_the_same_time(tmp_path):
    together = threading.Barrier(2)

    def first(name):
        for number in range(50):
            store = FileStore(tmp_path / str(number))
            together.wait(10)
            claim_store(store)
            store.put(f"{name}/x", b"1")  # not a name of ours, so that only the mark explains it

    with ThreadPoolExecutor(2) as runs:
        list(runs.map(first, "ab"))
    assert {len(list(FileStore(tmp_path / str(number)).entries(""))) for number in range(50)} == {2}


def test_a_store_in_a_work_directory_needs_no_mark_unless_it_is_a_link(tmp_path):
    claim(tmp_path / "w", "work directory", "")
    (tmp_path / "w/store").mkdir()
    claim_store(FileStore(tmp_path / "w/store"))
    assert not (tmp_path / "w/store" / MARK).exists()
    (tmp_path / "disk").mkdir()
    (tmp_path / "w/linked").symlink_to(tmp_path / "disk")
    claim_store(FileStore(tmp_path / "w/linked"))
    assert (tmp_path / "disk" / MARK).exists()


def test_incomplete_files_are_deleted_after_a_day_if_nobody_holds_their_lock(tmp_path):
    """For an hour, a writer on another machine may be slow and its lock not visible."""
    store = FileStore(tmp_path)
    dead, recent, alive, foreign = (
        tmp_path / "split" / name for name in (partial_name(), partial_name(), partial_name(), ".partial-x")
    )
    now = os.stat(tmp_path).st_mtime
    dead.parent.mkdir()
    for file in (dead, recent, alive, foreign):
        file.touch()
        os.utime(file, (now - HOUR,) * 2 if file == recent else (now - 25 * HOUR,) * 2)
    with alive.open("rb+") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        delete_partial_objects(store)
        assert dead.exists()  # nothing is deleted without the mark
        claim_store(store)
        delete_partial_objects(store)
        assert [file.exists() for file in (dead, recent, alive, foreign)] == [False, True, True, True]
