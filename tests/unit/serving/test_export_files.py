"""An export lists the hashes of its files. An interrupted one blocks no later one, and tells no untrue facts."""

import hashlib
import json
import os

import pytest

from cliptea.errors import ConfigError
from cliptea.serving.export_files import exported_files, write_export
from cliptea_pipeline.export_cli import _require_exportable as require_exportable

FACTS = {"inputs": "images", "output": "logits", "steps": [], "classes": ["sky"]}


def contents(number):
    return {".bin": b"weights %d" % number, ".xml": b"network %d" % number}


def test_the_facts_list_the_hashes_of_both_files(tmp_path):
    write_export(tmp_path / "network.xml", contents(1), FACTS)
    hashes = {f"network{suffix}": hashlib.sha256(data).hexdigest() for suffix, data in contents(1).items()}
    assert json.loads((tmp_path / "network.json").read_text()) == FACTS | {"files": hashes}
    assert {path.name for path in tmp_path.iterdir()} == {"network.json", "network.xml", "network.bin"}


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("renamed", range(4))
def test_an_interrupted_export_can_be_repeated_and_tells_nothing_untrue(tmp_path, monkeypatch, earlier, renamed):
    file, left = tmp_path / "network.xml", [*range(renamed)]
    if earlier:
        write_export(file, contents(1), FACTS | {"size": 1})
    replace = os.replace

    def interrupted(*paths):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        replace(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_export(file, contents(2), FACTS | {"size": 2})
    facts = file.with_suffix(".json")
    told = json.loads(facts.read_text()) if facts.exists() else {}
    assert ("size" in told) == (earlier and renamed == 0)  # then no file was replaced
    for name, hashes in (exported_files(facts) or {}).items():
        if (tmp_path / name).exists():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() in hashes
    require_exportable(file)
    write_export(file, contents(3), FACTS | {"size": 3})
    assert {suffix: file.with_suffix(suffix).read_bytes() for suffix in contents(3)} == contents(3)
    assert json.loads(facts.read_text())["size"] == 3


def test_names_in_the_facts_of_others_are_no_error_of_the_system(tmp_path):
    (tmp_path / "network.json").write_text(json.dumps(FACTS | {"files": {"x" * 300: 7}}))
    require_exportable(tmp_path / "network.xml")


def test_a_changed_file_is_not_replaced_after_an_interrupted_export(tmp_path):
    (tmp_path / "network.json").write_text(
        json.dumps({"unfinished_export": True, "files": {"network.onnx": ["0", "1"]}})
    )
    (tmp_path / "network.onnx").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"network\.onnx exists and is not an unchanged file of an earlier export"):
        require_exportable(tmp_path / "network.onnx")
