"""What steps write, over S3: the same bytes, and the same notice of damage, as on a disk."""

import numpy as np
import pytest

from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.errors import StorageError
from cliptea.manifest import Contents, Output, find, publish, put_object, read_object
from cliptea.storage import FileStore


def write_shards(store):
    random = np.random.default_rng(3)
    writer = ShardWriter(store, "x/f/train", limit=60_000)
    for number in range(25):
        size = int(random.integers(1, 9000))
        writer.add(f"image-{number}", {"jpg": random.bytes(size), "label.png": random.bytes(size // 2)})
    shards = writer.close()
    return shards, put_top_index(store, "x/f/train", shards)


def test_an_output_is_found_only_while_all_its_objects_are_there(store):
    item = put_object(store, "k/f/data", b"12345")
    publish(store, Output("k", "f"), Contents({"data": item}, {"n": 1}))
    assert find(store, Output("k", "f")).info == {"n": 1}
    assert find(store, Output("k", "other")) is None
    assert read_object(store, item) == b"12345"
    store.put("k/f/data", b"123")
    assert find(store, Output("k", "f")) is None
    store.delete("k/f/data")
    assert find(store, Output("k", "f")) is None


def everything(reader):
    return {name: reader.members(name) for name in reader.names}


def test_shards_are_the_same_bytes_as_on_a_disk(store, tmp_path):
    files = FileStore(tmp_path / "files")
    shards, objects = write_shards(store)
    assert len(shards) > 2
    assert write_shards(files) == (shards, objects)
    assert [entry[:2] for entry in store.entries("")] == [entry[:2] for entry in files.entries("")]
    for entry in store.entries(""):
        assert store.get(entry.key) == files.get(entry.key)
    remote, local = ShardReader(store, objects, "train"), ShardReader(files, objects, "train")
    assert everything(remote) == everything(local)
    assert list(remote.stream("jpg")) == list(local.stream("jpg"))


def test_a_byte_that_flips_on_the_way_is_read_again(store, proxy, environment):
    environment.setenv("CLIPTEA_CACHE_GIB", "0")
    _, objects = write_shards(store)
    wanted = everything(ShardReader(store, objects, "train"))
    for part in (".tar", ".index.json", "/train/index-"):
        proxy.fail("corrupt", 1, "GET", part)
        assert ShardReader(store, objects, "train").members("image-3") == wanted["image-3"]
        proxy.fail("corrupt", 2, "GET", part)
        with pytest.raises(StorageError, match="damaged"):
            ShardReader(store, objects, "train").members("image-3")
    assert proxy.injected == 9
    proxy.fail("corrupt", 1, "GET", ".tar")
    assert list(ShardReader(store, objects, "train").stream("jpg")) == [members["jpg"] for members in wanted.values()]


def test_an_object_that_flips_on_the_way_is_noticed(store, proxy):
    item = put_object(store, "k/f/data", b"12345")
    proxy.fail("corrupt", 1, "GET", item.key)
    assert read_object(store, item) == b"12345"
    proxy.fail("corrupt", 2, "GET", item.key)
    with pytest.raises(StorageError, match="is damaged whenever it is read, but each time differently"):
        read_object(store, item)
    assert read_object(store, item) == b"12345"  # it was not deleted


@pytest.mark.parametrize("kind", ["500", "503", "reset", "truncate"])
def test_shards_are_written_and_read_over_a_bad_network(store, proxy, tmp_path, kind):
    methods = ("GET",) if kind == "truncate" else ("PUT", "GET")  # an answer to PUT has no body
    for method in methods:
        for part in (".tar", ".index.json", "/train/index-"):
            proxy.fail(kind, 2, method, part)
    shards, objects = write_shards(store)
    files = FileStore(tmp_path / "files")
    assert (shards, objects) == write_shards(files)
    assert everything(ShardReader(store, objects, "train")) == everything(ShardReader(files, objects, "train"))
    assert proxy.injected == 6 * len(methods)


def test_what_was_read_once_comes_from_the_nodes_cache(store, proxy, environment, tmp_path):
    _, objects = write_shards(store)
    reader = ShardReader(store, objects, "train")
    wanted = everything(reader)
    before = len(proxy.seen)
    assert everything(reader) == wanted
    assert len(proxy.seen) == before
    files = [path for path in (tmp_path / "cache/shards").iterdir() if path.name != ".lock"]
    assert len(files) > 2
    for path in files:  # damage on the node is read anew from the store
        path.write_bytes(bytes(path.stat().st_size))
    assert everything(reader) == wanted
    assert len(proxy.seen) > before


def test_a_missing_shard_is_named(store, environment):
    environment.setenv("CLIPTEA_CACHE_GIB", "0")
    shards, objects = write_shards(store)
    reader = ShardReader(store, objects, "train")
    store.delete(shards[0].tar.key)
    with pytest.raises(StorageError, match=r"train/00000-[0-9a-f]{16}\.tar is missing"):
        reader.members(0)


def test_small_records_come_with_their_neighbours(store, proxy, environment):
    shards, objects = write_shards(store)
    assert len(shards) > 2
    reader = ShardReader(store, objects, "train")
    order = np.random.default_rng(0).permutation(25).tolist()
    found = {number: reader.members(number) for number in order}
    read = [path for method, path in proxy.seen if method == "GET" and ".tar" in path]
    assert len(read) == len(shards)
    environment.setenv("CLIPTEA_CACHE_GIB", "0")
    assert found == dict(enumerate(everything(ShardReader(store, objects, "train")).values()))
