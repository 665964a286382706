"""Fingerprints, the table of versions, and outputs that are made once."""

import ast
import hashlib
import json
from pathlib import Path

import pytest

import cliptea
from cliptea import manifest, progress
from cliptea.config import ClusteringConfig, Config
from cliptea.errors import NotFinite, StorageError
from cliptea.manifest import (
    VERSIONS,
    Contents,
    Manifest,
    Output,
    find,
    find_whole,
    fingerprint,
    make_once,
    publish,
    put_object,
    read_object,
)
from cliptea.run import Run, expand
from cliptea.steps.resolve import _counting
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.steps.train import TrainInputs, model_output
from cliptea.storage import FileStore
from cliptea.teacher.outputs import clustering_key

SOURCES = sorted(Path(cliptea.__file__).parent.rglob("*.py"))


def fingerprinted(file):
    """The kinds that a file calls `fingerprint` with: literals, or constants of the file."""
    tree = ast.parse(file.read_text())
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fingerprint":
            kind = node.args[0]
            yield kind.value if isinstance(kind, ast.Constant) else constants[kind.id]


def test_every_kind_that_is_fingerprinted_has_a_version_and_no_other():
    assert {kind for file in SOURCES for kind in fingerprinted(file)} == set(VERSIONS)


# Pinned by hand: whoever raises a version knows that all outputs of that kind are made anew, and changes its line.
KNOWN = {
    "split": "c6767592bde92b93",
    "demo-teacher": "4a62ff08d4a18915",
    "tokens": "7ca2985740647b4d",
    "regions": "08982ad0621e5858",
    "clip-time": "aa8bdf9148fba87f",
    "text": "3e646a64e4f36326",
    "initial": "7a556bfe0e23c75a",
    "train": "236488b5e881d1bd",
    "evaluate": "bdfd0d02b4c878bd",
    "part": "dccbe65f98dceaaf",
    "speed": "c265721cee00c48b",
    "compare": "fe6c21db1f27049a",
    "data": "de680478bc9448e2",
    "evaluated": "9e89550a395d24bb",
    "promote": "a711925f293e614c",
    "run": "e63bb6000188fd1d",
    "variant": "8a6ef6462c6f5340",
    "world": "5ecc2138b0910342",
    "clustering": "2185dd97f88e4a8e",
    "protocol": "99e4ed96aa0dc246",
}


@pytest.mark.parametrize("kind", VERSIONS)
def test_fingerprints_stay_what_they_are(kind):
    assert fingerprint(kind, clustering=ClusteringConfig(), inputs=["a", 1]) == KNOWN[kind]


def test_students_and_runs_without_validation_keep_their_fingerprints():
    """Pinned by hand: the settings of validation only count if it is used."""

    def fingerprints(**train):
        own = {"variants": ["mine"], "variant_groups": {"mine": {"full": {}}}, "train": train}
        config = Config.model_validate(own)
        run = Run(config=config, data_digest="", fingerprint="", job_id="", tracking_run="", variants=expand(config))
        parts = {kind: Manifest(kind=kind, fingerprint=kind) for kind in ("split", "tokens", "regions", "text")}
        cache = TeacherCache(
            tokens=parts["tokens"],
            regions={clustering_key(config.method.clustering): parts["regions"]},
            text={"demo": parts["text"]},
        )
        inputs = TrainInputs(run=run, variant=run.variants[0], splits=Splits(own=parts["split"]), teacher=cache)
        return model_output(inputs).fingerprint, fingerprint("run", config=_counting(config, run.variants))

    assert fingerprints() == ("20b9492dc171c457", "a3a3cb473b50ffd4")
    validated = fingerprints(validate_every=10)
    assert not {*validated} & {*fingerprints(), *fingerprints(validate_every=10, keep="best")}


def test_a_fingerprint_depends_on_content_not_on_order(monkeypatch):
    one = fingerprint("split", a={"x": 1, "y": [1, 2]}, b=2)
    assert one == fingerprint("split", b=2, a={"y": [1, 2], "x": 1})
    assert one != fingerprint("split", a={"x": 1, "y": [2, 1]}, b=2)
    assert one != fingerprint("text", a={"x": 1, "y": [1, 2]}, b=2)
    monkeypatch.setitem(manifest.VERSIONS, "split", VERSIONS["split"] + 1)
    assert one != fingerprint("split", a={"x": 1, "y": [1, 2]}, b=2)


def test_an_output_is_made_once(tmp_path):
    store, output, made = FileStore(tmp_path), Output("text", "f" * 16), []

    def make():
        made.append(output)
        return Contents({"data": put_object(store, f"{output.prefix}/data", b"12345")}, {"n": 1})

    first, new = make_once(store, output, make)
    assert new
    assert make_once(store, output, make) == (first, False)
    assert first == find(store, output)
    assert (first.output, first.info, len(made)) == (output, {"n": 1}, 1)
    assert sorted(entry.key for entry in store.entries("")) == [f"text/{'f' * 16}/data", output.manifest_key]
    store.delete(f"{output.prefix}/data")
    assert make_once(store, output, make) == (first, True)
    assert len(made) == 2


def test_make_once_may_look_elsewhere(tmp_path):
    there = Manifest(kind="text", fingerprint="f")

    def never():
        raise AssertionError

    assert make_once(FileStore(tmp_path), there.output, never, lambda store, output: there) == (there, False)


def published(store):
    """An output of one object."""
    output = Output("text", "f" * 16)
    item = put_object(store, f"{output.prefix}/data", b"12345")
    return output, publish(store, output, Contents({"data": item}, {"score": 0.5}))


def test_an_output_with_one_wrong_bit_is_made_anew_and_that_is_said(tmp_path, monkeypatch):
    store, said = FileStore(tmp_path), []
    monkeypatch.setattr(progress, "note", said.append)
    output, _ = published(store)
    for key, address in ((output.manifest_key, "manifest.json"), (f"{output.prefix}/data", "data")):
        sound = store.get(key)
        wrong = sound.replace(b"0.5", b"0.4") if key == output.manifest_key else b"12344"
        assert len(wrong) == len(sound)
        assert wrong != sound
        store.put(key, wrong)
        said.clear()
        assert find(store, output) is None
        assert len(said) == 1
        assert all(part in said[0] for part in (address, "damaged", "made anew"))
        store.put(key, sound)
        assert find(store, output) is not None


LARGE = bytes(manifest.SMALL + 1)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A store with an output whose object is above the limit and has a wrong bit, and the notes about it."""
    store, said, output = FileStore(tmp_path), [], Output("text", "f" * 16)
    monkeypatch.setattr(progress, "note", said.append)
    item = put_object(store, f"{output.prefix}/data", LARGE)
    publish(store, output, Contents({"data": item}, {}))
    store.put(item.key, b"\1" + LARGE[1:])
    return store, output, item, said


def test_a_large_object_with_one_wrong_bit_is_deleted_when_it_is_read_and_then_made_anew(large):
    store, output, item, _ = large
    assert find(store, output) is not None  # only its size is compared
    with pytest.raises(StorageError, match=r"text/f+/data is damaged, and was deleted; expected sha256 .*; run again"):
        read_object(store, item)

    def make():
        return Contents({"data": put_object(store, item.key, LARGE)}, {})

    made, new = make_once(store, output, make)
    assert new
    assert read_object(store, made.objects["data"]) == LARGE


def test_a_large_object_with_one_wrong_bit_is_noticed_where_all_is_read(large):
    store, output, item, said = large
    assert find_whole(store, output) is None
    assert "damaged" in said[0]
    assert store.size(item.key) == len(LARGE)  # nothing is deleted by looking
    store.put(item.key, LARGE)
    assert find_whole(store, output) is not None


def test_where_a_damaged_object_cannot_be_deleted_the_user_is_asked_to(large, monkeypatch):
    store, _, item, _ = large

    def refused(key):
        raise StorageError(f"cannot delete {key}")

    monkeypatch.setattr(store, "delete", refused)
    with pytest.raises(StorageError, match=r"is damaged; expected sha256 .*; delete it and run again"):
        read_object(store, item)


def test_looking_deletes_nothing(large):
    store, _, item, _ = large
    with pytest.raises(StorageError, match=r"is damaged; expected sha256 .*; run again"):
        read_object(store, item, keep=True)
    assert store.size(item.key) == len(LARGE)


def test_an_object_that_another_run_has_made_anew_stays(large):
    store, output, item, _ = large
    other = LARGE + b"other"
    publish(store, output, Contents({"data": put_object(store, item.key, other)}, {}))
    with pytest.raises(StorageError, match="was made anew while it was in use"):
        read_object(store, item)
    assert store.get(item.key) == other


def test_an_object_that_is_damaged_only_on_its_way_is_read_again_and_stays(large, monkeypatch):
    store, _, item, _ = large
    answers = [store.get(item.key), LARGE]
    monkeypatch.setattr(store, "get", lambda key: answers.pop(0))
    assert read_object(store, item) == LARGE
    assert store.size(item.key) == len(LARGE)


def test_a_manifest_without_a_hash_is_made_anew(tmp_path, monkeypatch):
    store, said = FileStore(tmp_path), []
    monkeypatch.setattr(progress, "note", said.append)
    output, manifest = published(store)
    store.put(output.manifest_key, manifest.model_dump_json().encode())
    assert find(store, output) is None
    assert "it holds no sha256" in said[0]


def test_a_manifest_counts_only_at_its_own_address(tmp_path):
    store = FileStore(tmp_path)
    output, _ = published(store)
    other = Output("text", "e" * 16)
    store.put(other.manifest_key, store.get(output.manifest_key))
    assert find(store, other) is None


@pytest.mark.parametrize("name", ["/home/u/.bashrc", "../x", "..", "", "a/b", "x\0"])
def test_a_manifest_whose_objects_could_lead_to_other_files_is_none(tmp_path, name):
    """Whoever writes to a bucket writes manifests too, and some of their objects become files of these names."""
    store = FileStore(tmp_path)
    output, made = published(store)
    content = made.model_dump(mode="json")
    content["objects"][name] = next(iter(content["objects"].values()))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    forged = content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    assert find(store, output) == made
    store.put(output.manifest_key, json.dumps(forged).encode())
    assert find(store, output) is None


def test_facts_that_are_not_finite_are_never_published(tmp_path):
    store, output = FileStore(tmp_path), Output("text", "f" * 16)
    with pytest.raises(NotFinite):
        publish(store, output, Contents({}, {"score": float("nan")}))
    assert store.size(output.manifest_key) is None
