import os

import pytest

from cliptea.errors import StorageError
from cliptea.weights_source import WeightsSource


def kind(text):
    return WeightsSource.of(text).kind


def test_a_tag_is_what_names_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    assert kind("openai") == "tag"
    assert kind("") == kind(None) == "tag"  # no weights are named: not the present folder
    assert kind("demo") == "demo"
    assert kind("s3://bucket/ViT-B-16.pt") == kind("s3://bucket/clip") == "remote"
    for text in ("clip", "./openai", "gone.pt", "gone.PTH", "file:///clip", "~/openai", "features.npy"):
        assert kind(text) == "local"


def test_only_a_path_can_be_missing(tmp_path):
    for text, missing in ((str(tmp_path), False), (str(tmp_path / "gone.pt"), True), ("gone.pt", True),
                          ("s3://bucket/gone.pt", False), ("openai", False), ("demo", False)):  # fmt: skip
        source = WeightsSource.of(text)
        assert (source.text, source.missing) == (text, missing)
        assert source.is_file is (text not in ("openai", "demo"))


def test_a_name_longer_than_the_system_allows_is_told():
    assert kind("9" * 300) == "tag"
    path = WeightsSource.of("/" + "9" * 300)
    for use in (path.fetch, path.state):
        with pytest.raises(StorageError, match="too long"):
            use()


def test_a_file_is_fetched_where_it_lies(tmp_path):
    file = tmp_path / "clip.pt"
    file.touch()
    assert WeightsSource.of(str(file)).fetch() == WeightsSource.of(file.as_uri()).fetch() == file


def test_other_weights_have_another_state(tmp_path):
    def state(text):
        return WeightsSource.of(text).state()

    file = tmp_path / "clip.pt"
    file.write_bytes(b"123")
    os.utime(file, ns=(1, 1))
    states = [state(str(file)), state(str(tmp_path))]
    assert states == [state(file.as_uri()), state(str(tmp_path))]
    os.utime(file, ns=(2, 2))
    states += [state(str(file)), state(str(tmp_path))]
    file.write_bytes(b"1234")
    os.utime(file, ns=(2, 2))
    states += [state(str(file)), state(str(tmp_path))]
    assert len({tuple(state) for state in states}) == 6
    assert state("openai") == state("demo") == []
    with pytest.raises(StorageError):
        state(str(tmp_path / "gone.pt"))
