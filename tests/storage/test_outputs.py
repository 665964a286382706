"""What steps write, over S3: the same bytes, and the same notice of damage, as on a disk."""

import numpy as np
import pytest

from cliptea.data.shards import ShardReader, ShardWriter
from cliptea.errors import StorageError
from cliptea.manifest import Manifest, find, publish, put_object, read_object
from cliptea.storage import FileStore


def write_shards(store):
    random = np.random.default_rng(3)
    writer = ShardWriter(store, "x/train", limit=60_000)
    for number in range(25):
        size = int(random.integers(1, 9000))
        writer.add(f"image-{number}", {"jpg": random.bytes(size), "label.png": random.bytes(size // 2)})
    return writer.close()


def test_an_output_is_found_only_while_all_its_objects_are_there(store):
    item = put_object(store, "k/f/data", b"12345")
    publish(store, Manifest(kind="k", fingerprint="f", objects={"data": item}, info={"n": 1}))
    assert find(store, "k", "f").info == {"n": 1}
    assert find(store, "k", "other") is None
    assert read_object(store, item) == b"12345"
    store.put("k/f/data", b"123")
    assert find(store, "k", "f") is None
    store.delete("k/f/data")
    assert find(store, "k", "f") is None


def test_shards_are_the_same_bytes_as_on_a_disk(store, tmp_path):
    files = FileStore(tmp_path / "files")
    objects = write_shards(store)
    assert len(objects) > 4
    assert write_shards(files) == objects
    for item in objects.values():
        assert store.get(item.key) == files.get(item.key)
    remote, local = ShardReader(store, objects, "train"), ShardReader(files, objects, "train")
    assert remote.names == local.names
    for name in remote.names:
        for extension in ("jpg", "label.png"):
            assert remote.read(name, extension) == local.read(name, extension)


def test_a_byte_that_flips_on_the_way_is_noticed(store, proxy):
    objects = write_shards(store)
    reader = ShardReader(store, objects, "train")
    proxy.fail("corrupt", 1, "GET", ".tar")
    with pytest.raises(StorageError, match="damaged"):
        reader.read("image-3", "jpg")
    item = next(iter(objects.values()))
    proxy.fail("corrupt", 1, "GET", item.key)
    with pytest.raises(StorageError, match="damaged"):
        read_object(store, item)
