import os

import pytest

from cliptea.errors import StorageError
from cliptea.weights_source import is_tag, weights_state


def test_a_tag_is_what_names_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    assert is_tag("openai")
    assert is_tag("")  # no weights are named: not the present folder
    for source in ("clip", "./openai", "gone.pt", "s3://bucket/ViT-B-16.pt", "file:///clip", "~/openai"):
        assert not is_tag(source)


def test_other_weights_have_another_state(tmp_path):
    file = tmp_path / "clip.pt"
    file.write_bytes(b"123")
    os.utime(file, ns=(1, 1))
    states = [weights_state(str(file)), weights_state(str(tmp_path))]
    assert states == [weights_state(file.as_uri()), weights_state(str(tmp_path))]
    os.utime(file, ns=(2, 2))
    states += [weights_state(str(file)), weights_state(str(tmp_path))]
    file.write_bytes(b"1234")
    os.utime(file, ns=(2, 2))
    states += [weights_state(str(file)), weights_state(str(tmp_path))]
    assert len({tuple(state) for state in states}) == 6
    assert weights_state("openai") == []
    with pytest.raises(StorageError):
        weights_state(str(tmp_path / "gone.pt"))
