"""Shards are plain tar files; the index finds every member; damage is noticed."""

import errno
import hashlib
import io
import json
import subprocess
import tarfile

import numpy as np
import pytest
import webdataset

from cliptea.data import shards as shards_module
from cliptea.data.shard_index import parse_index
from cliptea.data.shard_sets import ShardEntry, find_sharded, put_top_index
from cliptea.data.shard_writer import ShardWriter, found_shards
from cliptea.data.shards import ShardReader
from cliptea.errors import StorageError, Unusable
from cliptea.manifest import Contents, Output, StoredObject, publish, put_object
from cliptea.storage import FileStore
from cliptea.storage.local_files import unusable


def records(number, seed=0):
    rng = np.random.default_rng(seed)
    return {f"r{n:03d}": {"png": rng.bytes(rng.integers(0, 3000)), "label.png": rng.bytes(40)} for n in range(number)}


def write(store, wanted, limit=8000, prefix="x/f/train"):
    writer = ShardWriter(store, prefix, limit)
    for name, members in wanted.items():
        writer.add(name, members)
    return writer.close()


@pytest.fixture
def written(tmp_path):
    store, wanted = FileStore(tmp_path / "store"), records(25)
    shards = write(store, wanted)
    return store, shards, put_top_index(store, "x/f/train", shards), wanted


def test_every_member_is_found_by_name_and_by_number(written):
    store, _, objects, wanted = written
    reader = ShardReader(store, objects, "train")
    assert len(reader) == len(wanted)
    assert reader.names == list(wanted)
    for number, (name, members) in enumerate(wanted.items()):
        assert reader.name(number) == name
        assert list(reader.members(name)) == list(reader.members(number)) == list(members)
        assert reader.members(name) == reader.members(number) == members
        for extension, data in members.items():
            assert reader.read(name, extension) == data
    for number in (-1, 25):
        with pytest.raises(IndexError):
            reader.name(number)


@pytest.mark.parametrize("chunk", [1, 3000, 1 << 20])
def test_a_stream_gives_the_same_in_order(written, monkeypatch, chunk):
    store, _, objects, wanted = written
    monkeypatch.setattr(shards_module, "CHUNK", chunk)
    reader, data = ShardReader(store, objects, "train"), [members["png"] for members in wanted.values()]
    assert list(reader.stream("png")) == data
    assert list(reader.stream("png", 7, 19)) == data[7:19]


def test_members_that_only_some_records_have(tmp_path):
    store = FileStore(tmp_path)
    wanted = {"a": {"jpg": b"1", "label.png": b"2"}, "b": {"label.png": b"3", "png": b""}, "c": {"png": b"4"}}
    reader = ShardReader(store, put_top_index(store, "x/f/train", write(store, wanted)), "train")
    assert {name: reader.members(name) for name in reader.names} == wanted


def test_tar_and_webdataset_read_the_same(written, tmp_path):
    store, shards, _, wanted = written
    assert len(shards) > 2
    files = {f"{name}.{ext}": data for name, members in wanted.items() for ext, data in members.items()}
    found = {}
    for shard in shards:
        with tarfile.open(fileobj=io.BytesIO(store.get(shard.tar.key))) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
        subprocess.run(["tar", "-xf", store.path(shard.tar.key), "-C", tmp_path], check=True)
    assert found == files
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    urls = [str(store.path(shard.tar.key)) for shard in shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(wanted)
    assert all(sample[ext] == data for sample in samples for ext, data in wanted[sample["__key__"]].items())


def test_the_index_is_what_its_specification_says(written):
    """Read with json alone, as another program would."""
    store, shards, objects, wanted = written
    top = json.loads(store.get(objects["train"].key))
    assert top["version"] == 2
    names = []
    for described, shard in zip(top["shards"], shards, strict=True):
        tar, data = store.get(described["tar"]["key"]), store.get(described["index"]["key"])
        index = json.loads(data)
        assert described["tar"]["sha256"] == index["tar"]["sha256"] == hashlib.sha256(tar).hexdigest()
        assert described["index"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert described["records"] == shard.records == len(index["names"])
        names += index["names"]
        for extension, column in index["members"].items():
            for name, offset, length, digest in zip(index["names"], *column.values(), strict=True):
                assert tar[offset : offset + length] == wanted[name][extension]
                assert digest == hashlib.sha256(wanted[name][extension]).hexdigest()
    assert names == list(wanted)


def test_equal_records_give_equal_bytes_and_shards_are_closed_at_the_limit(written, tmp_path):
    _, shards, _, wanted = written
    assert write(FileStore(tmp_path / "other"), wanted) == shards
    for shard in shards[:-1]:
        assert 8000 <= shard.tar.size < 8000 + 3 * 512 + 3000 + 10240


def flip(store, key, offset):
    data = bytearray(store.get(key))
    data[offset] ^= 1
    store.put(key, bytes(data))


@pytest.mark.parametrize("streamed", [True, False])
def test_a_shard_with_a_flipped_bit_is_deleted_and_then_made_anew(written, streamed):
    store, shards, objects, wanted = written
    publish(store, Output("x", "f"), Contents(objects, {}))
    indexes = [json.loads(store.get(shard.index.key)) for shard in shards]
    shard, index = next(pair for pair in zip(shards, indexes, strict=True) if "r003" in pair[1]["names"])
    flip(store, shard.tar.key, index["members"]["label.png"]["offset"][index["names"].index("r003")])
    reader = ShardReader(store, objects, "train")
    assert reader.read("r003", "png") == wanted["r003"]["png"]
    assert find_sharded(store, Output("x", "f")) is not None  # only the sizes of shards are compared
    with pytest.raises(StorageError, match=r"r003\.label\.png is damaged, and was deleted.*run again"):
        list(reader.stream("label.png")) if streamed else reader.read("r003", "label.png")
    assert store.size(shard.tar.key) is None
    assert find_sharded(store, Output("x", "f")) is None
    assert write(store, wanted) == shards
    assert ShardReader(store, objects, "train").read("r003", "label.png") == wanted["r003"]["label.png"]


@pytest.mark.parametrize("part", ["tar", "index"])
def test_a_missing_file_is_named(written, part):
    store, shards, objects, _ = written
    key = getattr(shards[1], part).key
    store.delete(key)
    with pytest.raises(StorageError, match=rf"{key} is missing"):
        ShardReader(store, objects, "train").read(shards[0].records, "png")


def test_another_version_is_refused(written):
    store, shards, _, _ = written
    top = json.loads(store.get(put_top_index(store, "x/f/train", shards)["train"].key))
    data = json.dumps(top | {"version": 3}).encode()
    store.put("x/f/train-index.json", data)
    item = StoredObject(key="x/f/train-index.json", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(StorageError, match="version 3"):
        ShardReader(store, {"train": item}, "train")


def test_an_output_is_found_while_every_shard_is_there(written):
    store, shards, objects, _ = written
    publish(store, Output("x", "f"), Contents(objects, {}))
    assert find_sharded(store, Output("x", "f")) is not None
    assert find_sharded(store, Output("x", "g")) is None
    data = store.get(shards[1].tar.key)
    store.put(shards[1].tar.key, data[:-1])
    assert find_sharded(store, Output("x", "f")) is None
    store.put(shards[1].tar.key, data)
    store.delete(shards[2].index.key)
    assert find_sharded(store, Output("x", "f")) is None


def test_shards_on_a_disk_that_cannot_be_read_are_not_taken_for_damaged(written, monkeypatch):
    store, _, objects, _ = written
    publish(store, Output("x", "f"), Contents(objects, {}))

    def fails(store, item):
        raise unusable(store.path(item.key), OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr("cliptea.data.shard_sets.read_top_index", fails)
    with pytest.raises(Unusable, match="the disk has an input/output error"):
        find_sharded(store, Output("x", "f"))


@pytest.mark.parametrize("part", ["tar", "index"])
@pytest.mark.parametrize("harm", ["missing", "flipped", "cut"])
def test_shards_are_taken_over_up_to_the_first_that_is_not_whole(written, part, harm):
    store, shards, _, _ = written
    assert [shard.entry for shard in found_shards(store, "x/f/train")] == shards
    key = getattr(shards[2], part).key
    if harm == "missing":
        store.delete(key)
    elif harm == "cut":
        store.put(key, store.get(key)[:-1])
    else:
        flip(store, key, 0)
    assert [shard.entry for shard in found_shards(store, "x/f/train")] == shards[:2]


def test_a_writer_goes_on_behind_shards_that_are_there(written, tmp_path):
    store, shards, _, wanted = written
    other = FileStore(tmp_path / "other")
    for shard in shards[:2]:
        for item in (shard.tar, shard.index):
            other.put(item.key, store.get(item.key))
    found = list(found_shards(other, "x/f/train"))
    done = sum(shard.entry.records for shard in found)
    writer = ShardWriter(other, "x/f/train", 8000, [shard.entry for shard in found])
    for name in list(wanted)[done:]:
        writer.add(name, wanted[name])
    assert writer.close() == shards


def test_an_upload_that_fails_is_an_error(tmp_path):
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    with pytest.raises(StorageError, match="cannot use"):
        write(FileStore(folder), records(25))


def test_ten_million_records_open_fast(tmp_path):
    """9,766 shards of 1,024 views, whose indexes are read when they are asked for."""
    store, wanted = FileStore(tmp_path), {f"i{n:07d}.v0": {"npy": b"x"} for n in range(1024)}
    (one,) = write(store, wanted, 1 << 30)
    entries = [ShardEntry(tar=one.tar, index=one.index, records=1024)] * 9766
    objects = put_top_index(store, "x/f/cls", entries)
    reader = ShardReader(store, objects, "cls")
    assert len(reader) == 9766 * 1024
    assert reader.read(9_999_999, "npy") == b"x"
    assert len(reader._indexes) == 1


def test_indexes_in_memory_are_bounded(written, monkeypatch):
    store, _, objects, wanted = written
    monkeypatch.setattr(shards_module, "INDEXED", 10)
    reader = ShardReader(store, objects, "train")
    for number, members in enumerate(wanted.values()):
        assert reader.members(number) == members
        assert sum(map(len, reader._indexes.values())) <= 10


NO_SHA = '{"version": 2, "tar": {"key": "a", "size": 1, "sha256": "../x"}, "names": [], "members": {}}'
MEMBER = NO_SHA.replace("../x", "0" * 64).replace('[], "members": {}', '["a"], "members": {"npy": %s}')
NO_INDEXES = [
    "",
    NO_SHA,
    "null",
    "[" * 100_000,
    MEMBER % '{"offset": [1e999], "length": [1], "sha256": ["00"]}',
    MEMBER % ('{"offset": [%s], "length": [1], "sha256": ["00"]}' % 2**70),
]


@pytest.mark.parametrize("content", NO_INDEXES, ids=range(len(NO_INDEXES)))
def test_what_is_no_index_is_refused(content):
    with pytest.raises(StorageError, match=r"a\.json is not a shard index"):
        parse_index(content.encode(), "a.json")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda index: index["names"].pop(), "not a shard index"),
        (lambda index: index["members"]["npy"]["sha256"].pop(), "not a shard index"),
        (lambda index: index["members"].clear(), "not a shard index"),
        (lambda index: index["members"]["npy"]["offset"].__setitem__(0, -2), "not a shard index"),
        (lambda index: index["members"]["npy"]["length"].__setitem__(0, 1 << 40), "not a shard index"),
        (lambda index: index["tar"].__setitem__("key", "../tar"), "not a shard index"),
        (lambda index: index["tar"].__setitem__("key", "a\0b"), "not a shard index"),
        (lambda index: index["members"].__setitem__("txt", index["members"].pop("npy")), "without .npy"),
    ],
)
def test_an_index_that_does_not_fit_its_shard_is_refused(change, what, tmp_path):
    store = FileStore(tmp_path)
    writer = ShardWriter(store, "shards/cls", 1 << 20)
    for number in range(3):
        writer.add(f"{number}", {"npy": bytes(100)})
    (top,) = put_top_index(store, "shards", writer.close()).values()
    listed = json.loads(store.get(top.key))
    index = json.loads(store.get(listed["shards"][0]["index"]["key"]))
    change(index)
    listed["shards"][0]["index"] = put_object(store, "shards/a.index.json", json.dumps(index).encode()).model_dump()
    reader = ShardReader(store, {"cls": put_object(store, "shards/top.json", json.dumps(listed).encode())}, "cls")
    with pytest.raises(StorageError, match=what):
        list(reader.stream("npy"))


@pytest.mark.parametrize("sha256", ["/home/u/.bashrc", "../../x", "0" * 63, "0" * 64 + "\n"])
def test_a_top_index_with_the_path_of_a_file_for_a_sha256_is_refused(written, sha256):
    store, _, objects, _ = written
    top = json.loads(store.get(objects["train"].key))
    top["shards"][0]["tar"]["sha256"] = sha256
    data = json.dumps(top).encode()
    forged = objects["train"].model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})
    store.put(forged.key, data)
    with pytest.raises(StorageError, match="is not a top index of shards"):
        ShardReader(store, {"train": forged}, "train")
