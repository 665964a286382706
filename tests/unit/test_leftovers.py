"""What is deleted from a store is exactly what no kept run needs, however the runs share their outputs."""

import tempfile
from pathlib import Path

import past_runs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from past_runs import keys, output

from cliptea.errors import StorageError
from cliptea.storage import FileStore
from cliptea.storage.local_files import write_file
from cliptea.tracking.kept import RUNNING, Kept
from cliptea_pipeline import clean
from cliptea_pipeline.clean import delete
from cliptea_pipeline.leftovers import find_leftovers, read_lists, runs_of

OUTPUTS = [output(kind, name) for kind in past_runs.KINDS for name in range(2)]
SHARDS = ("split", "tokens", "dense", "value", "key", "regions")
FOREIGN = (
    "notes.txt", "train/notes.txt", "uses/notes.txt", "tracked/x.json", "models/0123456789abcdef/model.safetensors",
    "train/0123456789ABCDEF/model.safetensors", "split/0123456789abcdef/train/00000.tar", "runs/job/train/x.json",
)  # fmt: skip


class Killed(BaseException):
    pass


class Mortal(FileStore):
    """Dies before its delete number `left`, and calls `then` before each."""

    left: int = -1

    def then(self):
        pass

    def put(self, key, data):
        write_file(self.path(key), data, durable=False)  # quick

    def delete(self, key):
        self.then()
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().delete(key)


@pytest.fixture
def store(tmp_path):
    return Mortal(tmp_path / "store")


def sweep(store, kept, models=()):
    kept = Kept(kept, dict.fromkeys(models, "a model comes from it"))
    lists = read_lists(store)
    found = find_leftovers(store, list(store.entries("")), lists, kept)
    return delete(store, found.groups, lists)


def test_the_names_here_are_those_of_the_product():
    """So that the tests below are about all kinds, and about nothing of the user's."""
    from cliptea.steps.store_folder import NAMES
    from cliptea_pipeline.leftovers import _owner

    assert set(NAMES) == set(past_runs.KINDS)
    assert [_owner(key) for key in FOREIGN if not key.startswith("tracked")] == [(None, "", "")] * 7


graphs = st.fixed_dictionaries(
    {
        "runs": st.lists(st.sets(st.sampled_from(OUTPUTS), max_size=8), max_size=6),
        "kept": st.sets(st.integers(0, 5)),
        "running": st.sets(st.integers(0, 5)),
        "models": st.sets(st.integers(0, 5)),
        "unlisted": st.sets(st.sampled_from(OUTPUTS), max_size=3),
        "killed": st.integers(0, 60),
    }
)


@given(graphs)
@settings(max_examples=40, deadline=None)
def test_exactly_what_the_lists_of_kept_runs_do_not_reach_is_deleted(graph):
    with tempfile.TemporaryDirectory() as folder:
        store = Mortal(Path(folder))
        runs = {f"run{number}": outputs for number, outputs in enumerate(graph["runs"])}
        for made in {made for outputs in runs.values() for made in outputs} | graph["unlisted"]:
            past_runs.make(store, made)
        for run, outputs in runs.items():
            past_runs.record(store, run, outputs)
        for key in FOREIGN:
            store.put(key, b"mine")
        kept = {f"run{number}": "it is new" for number in graph["kept"]}
        kept |= {f"run{number}": RUNNING for number in graph["running"]}
        models = {f"run{number}" for number in graph["models"]} - kept.keys()
        dropped = runs.keys() - kept.keys() - models

        def is_gone(key):  # by the definition, key by key
            kind, name, *_ = [*key.split("/"), ""]
            if kind in ("uses", "tracked", "untold"):
                return name in dropped
            if kind == "runs":
                return name.removeprefix("task-") in dropped
            users = {run for run, outputs in runs.items() if any(made == (kind, name) for made in outputs)}
            return bool(users) and users <= (dropped | models if kind in SHARDS else dropped)

        before = keys(store)
        gone = {key for key in before if is_gone(key) and key not in FOREIGN}
        store.left = graph["killed"]
        try:
            first = sweep(store, kept, models)
        except Killed:
            first = None
        assert past_runs.complete(store)
        assert before - keys(store) <= gone
        store.left = -1
        second = sweep(store, kept, models)
        assert keys(store) == before - gone
        if first is not None:
            assert {entry.key for entry in first} == gone
            assert second == []


def test_a_kill_after_each_delete_is_made_good_by_the_next_call(store):
    shared, own, other = output("tokens", 1), output("train", 1), output("train", 2)
    past_runs.record(store, "old", [shared, own])
    past_runs.record(store, "new", [shared, other])
    for made in (shared, own, other):
        past_runs.make(store, made)
    before, kept, kills = keys(store), {"new": "it is new"}, 0
    gone = {key for key in before if own.fingerprint in key or "/old/" in key or "task-old" in key}
    while True:
        past_runs.record(store, "old", [shared, own])
        past_runs.make(store, own)
        store.left = kills
        try:
            sweep(store, kept)
        except Killed:
            kills += 1
        else:
            break
        assert past_runs.complete(store)
        store.left = -1
        sweep(store, kept)
        assert keys(store) == before - gone
    assert kills == len(gone) == 3 + 4


def test_a_run_that_begins_meanwhile_keeps_what_its_list_names(store, monkeypatch):
    monkeypatch.setattr(clean, "LOOK_SECONDS", 0.0)
    first, second, third = sorted(output("train", number) for number in range(3))
    for made in (first, second, third):
        past_runs.make(store, made)
    past_runs.record(store, "old", [first, second, third])

    def begin():
        if first.manifest_key not in keys(store) and "tracked/new/data-0123.json" not in keys(store):
            past_runs.record(store, "new", [first, third])

    store.then = begin
    untouched = {key for key in keys(store) if third.fingerprint in key}
    sweep(store, {})
    left = keys(store)
    assert first.manifest_key not in left  # the run makes it anew, and nothing of what it puts there is deleted
    assert f"{first.prefix}/model-{past_runs.HASH}.safetensors" in left
    assert untouched <= left
    assert not any(second.fingerprint in key for key in left)
    assert {key for key in left if key.startswith("uses/")} == {key for key in left if key.startswith("uses/new/")}


def test_lists_are_looked_for_before_each_output_however_quick_the_deletes_are(store, monkeypatch):
    monkeypatch.setattr(clean, "LOOK_SECONDS", float("inf"))
    first, second = sorted(output("train", number) for number in range(2))
    for made in (first, second):
        past_runs.make(store, made)
    past_runs.record(store, "old", [first, second])
    untouched = {key for key in keys(store) if second.fingerprint in key}

    def begin():
        if "tracked/new/data-0123.json" not in keys(store):
            past_runs.record(store, "new", [second])

    store.then = begin
    sweep(store, {})
    assert untouched <= keys(store)
    assert not any(first.fingerprint in key for key in keys(store))


def test_a_run_that_is_started_again_meanwhile_is_seen_by_the_version_of_its_list(store):
    made = output("train", 1)
    past_runs.make(store, made)
    past_runs.record(store, "old", [made])
    lists = read_lists(store)
    groups = find_leftovers(store, list(store.entries("")), lists, Kept({}, {})).groups
    past_runs.record(store, "old", [made])
    before = keys(store)
    assert delete(store, groups, lists) == []
    assert keys(store) == before


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("why", [RUNNING, "it is new"])
def test_checkpoints_and_blocks_go_once_their_output_is_complete_and_no_run_is_at_work(store, complete, why):
    model, tokens = output("train", 1), output("tokens", 1)
    extra = {f"{model.prefix}/checkpoints/{9:09d}-{'a' * 32}.pt", f"{model.prefix}/inputs-{'b' * 10}.json"}
    for key in extra:
        store.put(key, b"x")
    past_runs.shards(store, f"{tokens.prefix}/cls/00000")
    extra |= keys(store)
    past_runs.make(store, model)
    past_runs.make(store, tokens)
    if not complete:
        store.delete(model.manifest_key)
        store.delete(tokens.manifest_key)
    past_runs.record(store, "run", [model, tokens])
    before = keys(store)
    deleted = {entry.key for entry in sweep(store, {"run": why})}
    assert deleted == before - keys(store) == (extra if complete and why != RUNNING else set())
    assert len(extra) == 2 + 6


def test_unfinished_work_of_a_killed_run_goes_with_its_run(store):
    teacher = output("demo-teacher", 1)
    scratch = f"scratch/demo-teacher-{teacher.fingerprint}"
    for key in (f"{scratch}/pretraining.ckpt", f"{scratch}/notes.txt", f"{scratch}.lock"):
        store.put(key, b"x")
    past_runs.record(store, "run", [teacher])
    sweep(store, {"run": RUNNING})
    assert len(keys(store)) == 3 + 4
    sweep(store, {})
    assert keys(store) == {f"{scratch}/notes.txt"}


def test_a_kept_run_whose_list_is_missing_or_damaged_stops_everything(store):
    made = output("train", 1)
    past_runs.make(store, made)
    past_runs.record(store, "run", [made])
    (key,) = (key for key in keys(store) if key.startswith("uses/"))
    whole = store.get(key)
    for damage in (lambda: store.delete(key), lambda: store.put(key, whole.replace(b"train", b"tokens"))):
        damage()
        with pytest.raises(StorageError, match="it is unknown what the MLflow run run uses"):
            sweep(store, {"run": "it is new"})
        assert made.manifest_key in keys(store)


def test_a_run_that_begins_between_two_listings_keeps_what_it_uses(store):
    shared, old = output("tokens", 1), output("train", 1)
    for made in (shared, old):
        past_runs.make(store, made)
    past_runs.record(store, "old", [shared, old])
    entries = list(store.entries(""))
    past_runs.record(store, "new", [shared])
    lists = read_lists(store)
    assert runs_of(entries) == {"old"}
    found = find_leftovers(store, entries, lists, Kept({"new": RUNNING}, {}))
    delete(store, found.groups, lists)
    assert shared.manifest_key in keys(store)
    assert old.manifest_key not in keys(store)
