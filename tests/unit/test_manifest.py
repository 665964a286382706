"""Fingerprints, the table of versions, and outputs that are made once."""

import ast
from pathlib import Path

import pytest

import cliptea
from cliptea import manifest, progress
from cliptea.config import ClusteringConfig
from cliptea.errors import NotFinite
from cliptea.manifest import VERSIONS, Contents, Manifest, Output, find, fingerprint, make_once, publish, put_object
from cliptea.storage import FileStore

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
    "split": "69fee9943b21ac50",
    "demo-teacher": "aa971cf548c44ce4",
    "tokens": "576cfc087985c238",
    "regions": "e0a72d576f7f666a",
    "text": "521616bf0cd957d0",
    "initial": "69341510288b6b37",
    "train": "6839f4d73bbe0f76",
    "evaluate": "0d2a5feb3ac6f809",
    "compare": "e3ad0786d4b52d3e",
    "data": "0b100b88b04f0f49",
    "evaluated": "0d1c997f94bc06a9",
    "promote": "be7f3688012eac40",
    "run": "b8c5fdc9b9e5ac36",
    "variant": "85569d99ac98b56e",
    "world": "97f2e3f70225001f",
    "clustering": "87cfa12f49bb8140",
    "protocol": "7c780455ce7afd5c",
}


@pytest.mark.parametrize("kind", VERSIONS)
def test_fingerprints_stay_what_they_are(kind):
    assert fingerprint(kind, clustering=ClusteringConfig(), inputs=["a", 1]) == KNOWN[kind]


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


def test_a_manifest_of_an_earlier_version_has_no_hash_and_is_made_anew(tmp_path, monkeypatch):
    store, said = FileStore(tmp_path), []
    monkeypatch.setattr(progress, "note", said.append)
    output, manifest = published(store)
    store.put(output.manifest_key, manifest.model_dump_json().encode())
    assert find(store, output) is None
    assert "an earlier version of cliptea" in said[0]


def test_a_manifest_counts_only_at_its_own_address(tmp_path):
    store = FileStore(tmp_path)
    output, _ = published(store)
    other = Output("text", "e" * 16)
    store.put(other.manifest_key, store.get(output.manifest_key))
    assert find(store, other) is None


def test_facts_that_are_not_finite_are_never_published(tmp_path):
    store, output = FileStore(tmp_path), Output("text", "f" * 16)
    with pytest.raises(NotFinite):
        publish(store, output, Contents({}, {"score": float("nan")}))
    assert store.size(output.manifest_key) is None
