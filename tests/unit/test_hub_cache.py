"""Damaged copies in the caches of hubs: what is deleted, and what happens if another process deletes it first."""

import hashlib
import os

import pytest

from cliptea import hub_cache
from cliptea.errors import Unusable

CONTENT = bytes(range(200))
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def damaged(tmp_path):
    copy = tmp_path / NAME
    copy.write_bytes(CONTENT[:-1])
    return copy


def test_a_damaged_copy_is_deleted(damaged):
    assert not hub_cache.is_whole(damaged)
    assert not damaged.exists()


def test_a_damaged_copy_that_another_process_deletes_first_is_downloaded_again(damaged, monkeypatch):
    monkeypatch.setattr(hub_cache.progress, "note", lambda text: damaged.unlink())  # after it was read
    assert not hub_cache.is_whole(damaged)
    assert not hub_cache.is_whole(damaged)  # before it was read


def test_a_damaged_copy_that_cannot_be_read_is_no_reason_to_download_again(damaged, monkeypatch):
    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(hub_cache, "sha256", refuse)
    with pytest.raises(Unusable, match=NAME):
        hub_cache.is_whole(damaged)
    assert damaged.exists()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [NAME, "a" * 64, "a" * 40, "net.pth"])
def test_a_named_pipe_in_place_of_a_copy_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(Unusable, match=rf"{name}: it is a named pipe; delete it"):
        hub_cache.is_whole(tmp_path / name)


@pytest.mark.parametrize("folder", ["shared", "blobs"])
def test_a_file_of_somebody_else_stays_if_the_copy_is_a_link_to_it(damaged, folder):
    theirs = damaged.parent / "theirs" / folder / NAME
    theirs.parent.mkdir(parents=True)
    damaged.rename(theirs)
    copy = damaged.parent / "torch/checkpoints" / NAME
    copy.parent.mkdir(parents=True)
    copy.symlink_to(theirs)
    assert not hub_cache.is_whole(copy)
    assert not copy.is_symlink()
    assert theirs.read_bytes() == CONTENT[:-1]
