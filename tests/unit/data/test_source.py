"""Raw data in an object store: the same samples as from a folder, with one listing of each folder and no other look."""

from collections import Counter

import numpy as np
import pytest
from miniatures import coco_stuff164k, folder, pascal_context, voc12

from cliptea.config import DataConfig
from cliptea.data import reader, source
from cliptea.data.datasets import open_dataset
from cliptea.errors import DataError
from cliptea.storage import Entry


class Remote:
    """What a reader may use of an object store, counted."""

    def __init__(self, root):
        self.root, self.calls, self.version = root, Counter(), "etag"

    def get(self, key):
        self.calls["get"] += 1
        return (self.root / key).read_bytes()

    def size(self, key):
        self.calls["size"] += 1
        return (self.root / key).stat().st_size if (self.root / key).is_file() else None

    def entries(self, prefix):
        self.calls["list", prefix] += 1
        for path in sorted((self.root / prefix).rglob("*")):
            if path.is_file():
                yield Entry(path.relative_to(self.root).as_posix(), path.stat().st_size, self.version)


@pytest.mark.parametrize("writer", [voc12, coco_stuff164k, pascal_context, folder])
def test_a_prefix_reads_like_a_folder(writer, tmp_path, monkeypatch):
    drawn = writer(tmp_path)
    local = open_dataset(DataConfig(dataset=writer.__name__, root=str(tmp_path)))
    remote = Remote(tmp_path)
    monkeypatch.setattr(source, "open_store", lambda uri: {"s3://bucket/raw": remote}[uri])
    far = open_dataset(DataConfig(dataset=writer.__name__, root="s3://bucket/raw"))
    files = 0
    for split in ("train", "val"):
        assert far.ids(split) == local.ids(split)
        assert far.digest((split,))
        for name in far.ids(split):
            here, there = local.read(split, name), far.read(split, name)
            assert (here.image, here.extension) == (there.image, there.extension)
            np.testing.assert_array_equal(here.labels, there.labels)
            files += 2
    assert files == 2 * sum(map(len, drawn.values()))
    assert remote.calls["get"] <= files + 2  # lists, or classes.json
    assert remote.calls["size"] <= 1
    assert {count for call, count in remote.calls.items() if call[0] == "list"} == {1}


def test_files_of_deeper_folders_are_left_and_versions_count(tmp_path, monkeypatch):
    folder(tmp_path)
    remote = Remote(tmp_path)
    monkeypatch.setattr(source, "open_store", lambda uri: remote)
    (tmp_path / "images/val/deeper").mkdir()
    (tmp_path / "images/val/deeper/x.jpg").touch()
    config = DataConfig(dataset="folder", root="s3://bucket/raw")
    assert open_dataset(config).ids("val") == [f"val{number}" for number in range(4)]
    before = open_dataset(config).digest()
    assert open_dataset(config).digest() == before
    remote.version = "other etag"
    assert open_dataset(config).digest() != before


def test_errors_name_the_uri(tmp_path, monkeypatch):
    folder(tmp_path)
    (tmp_path / "labels/val/val0.png").unlink()
    monkeypatch.setattr(source, "open_store", lambda uri: Remote(tmp_path))
    with pytest.raises(Exception, match=r"s3://bucket/raw/labels/val/val0\.png is missing"):
        open_dataset(DataConfig(dataset="folder", root="s3://bucket/raw/")).read("val", "val0")


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, closed):
    folder(tmp_path)
    closed("labels/val")
    with pytest.raises(DataError, match=r"cannot read the folder .*/labels/val \(Permission denied\); expected"):
        open_dataset(DataConfig(dataset="folder", root=str(tmp_path))).ids("val")


def test_label_maps_that_are_no_png_have_a_version_of_reading_of_their_own(tmp_path, monkeypatch):
    folder(tmp_path)
    config = DataConfig(dataset="folder", root=str(tmp_path))

    def digests():
        found = [open_dataset(config).digest()]
        monkeypatch.setattr(reader, "READING_OTHERS", b"another")
        found.append(open_dataset(config).digest())
        monkeypatch.undo()
        return found

    first, second = digests()
    assert first == second
    (tmp_path / "labels/val/val0.png").rename(tmp_path / "labels/val/val0.TIF")
    first, second = digests()
    assert first != second
