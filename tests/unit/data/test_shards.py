"""Shards are plain tar files; the index finds every member; damage is noticed."""

import io
import tarfile

import numpy as np
import pytest

from cliptea.data.shards import ShardReader, ShardWriter
from cliptea.errors import StorageError
from cliptea.storage import FileStore


def records(number, seed=0):
    rng = np.random.default_rng(seed)
    return {f"r{n:03d}": {"png": rng.bytes(rng.integers(0, 3000)), "label.png": rng.bytes(40)} for n in range(number)}


@pytest.fixture
def written(tmp_path):
    store, wanted = FileStore(tmp_path), records(25)
    writer = ShardWriter(store, "x/train", limit=8000)
    for name, members in wanted.items():
        writer.add(name, members)
    return store, writer.close(), wanted


def test_every_member_is_found(written):
    store, objects, wanted = written
    reader = ShardReader(store, objects, "train")
    assert reader.names == list(wanted)
    for name, members in wanted.items():
        assert reader.extensions(name) == list(members)
        for extension, data in members.items():
            assert reader.read(name, extension) == data


def test_tar_reads_the_same(written):
    store, objects, wanted = written
    found = {}
    tars = [item for name, item in objects.items() if name.endswith(".tar")]
    assert len(tars) > 2
    for item in tars:
        with tarfile.open(fileobj=io.BytesIO(store.get(item.key))) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    assert found == {f"{name}.{ext}": data for name, members in wanted.items() for ext, data in members.items()}


def test_equal_records_give_equal_bytes(written, tmp_path):
    _, objects, wanted = written
    other = ShardWriter(FileStore(tmp_path / "other"), "y/train", limit=8000)
    for name, members in wanted.items():
        other.add(name, members)
    assert {n: i.sha256 for n, i in other.close().items()} == {n: i.sha256 for n, i in objects.items()}


def test_a_flipped_bit_is_noticed(written):
    store, objects, wanted = written
    reader = ShardReader(store, objects, "train")
    tar, places = reader._places["r003"]
    data = bytearray(store.get(tar))
    data[places["label.png"][0]] ^= 1
    store.put(tar, bytes(data))
    with pytest.raises(StorageError, match=r"r003\.label\.png"):
        reader.read("r003", "label.png")
    assert reader.read("r003", "png") == wanted["r003"]["png"]
