"""Pre-training tags: what is cached, downloaded, unknown, or out of reach."""

import contextlib
import errno
import hashlib
import os
import random
import socket
import ssl
import time

import open_clip
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from cliptea import hub_cache
from cliptea.errors import ClipteaError, TeacherError
from cliptea.teacher import clip, hub
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.hub import download, tag_config

MODEL = "ViT-B-16-quickgelu"


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(hub, "cached", lambda repository, name: None)


@contextlib.contextmanager
def listening(answers):
    """The address of a port that takes connections and says nothing, or takes none."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("answers", [False, True])
def test_without_a_hub_the_file_to_provide_is_named_within_seconds(monkeypatch, empty_cache, answers):
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with listening(answers) as address:
        monkeypatch.setattr(hub, "hf_hub_url", lambda repository, name: f"{address}/{repository}/{name}")
        start = time.monotonic()
        with pytest.raises(TeacherError) as caught:
            load_teacher("openai", MODEL, 224)
    assert time.monotonic() - start < 5
    line = str(caught.value)
    assert "ViT-B-16.pt or open_clip_model.safetensors" in line
    assert "--set teacher.weights=FILE" in line
    assert "\n" not in line


def in_cache(folder, monkeypatch):
    """The path of OpenAI's weights in a cache of the hub, as its library lays it out, with content of the test."""
    content = random.Random(5).randbytes(3000)
    repository, name = "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"
    assert tag_config(MODEL, "openai")["hf_hub"].rstrip("/") == repository
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    home = folder / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/abc"):
        (home / part).mkdir(parents=True)
    (home / "refs/main").write_text("abc")
    blob = home / "blobs" / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (home / "snapshots/abc" / name).symlink_to(f"../../blobs/{blob.name}")
    return home / "snapshots/abc" / name


def flipped(content):
    """With one bit changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_what_is_cached_needs_no_network(monkeypatch, tmp_path):
    cached = in_cache(tmp_path, monkeypatch)
    monkeypatch.setattr(hub, "get_hf_file_metadata", None)
    assert download("openai", tag_config(MODEL, "openai")) == cached


def test_a_damaged_copy_is_never_used_and_downloaded_again(monkeypatch, tmp_path):
    cached, told = in_cache(tmp_path, monkeypatch), []
    blob, whole = cached.resolve(), cached.read_bytes()
    blob.write_bytes(flipped(whole))
    os.utime(blob, (0, 0))
    monkeypatch.setattr(hub_cache.progress, "note", told.append)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, timeout: None)

    def again(repository, name):
        assert not blob.exists()
        assert not cached.is_symlink()
        blob.write_bytes(whole)
        cached.symlink_to(blob)
        return str(cached)

    monkeypatch.setattr(hub, "hf_hub_download", again)
    assert download("openai", tag_config(MODEL, "openai")).read_bytes() == whole
    assert len(told) == 1
    assert str(cached) in told[0]
    assert "damaged" in told[0]


def test_a_download_that_is_damaged_is_not_used(monkeypatch, tmp_path):
    cached = in_cache(tmp_path, monkeypatch)
    cached.resolve().write_bytes(b"other")
    monkeypatch.setattr(hub, "cached", lambda repository, name: None)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, name: str(cached))
    with pytest.raises(TeacherError, match="what was downloaded is damaged"):
        download("openai", tag_config(MODEL, "openai"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/home/u/.cache"), "'/home/u/.cache'"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] of the proxy"), "of the proxy"),
        (OSError("no network"), "no network"),
    ],
)
def test_whatever_fails_is_named_with_the_file_to_provide(monkeypatch, empty_cache, error, words):
    def fails(url, timeout):
        raise error

    monkeypatch.setattr(hub, "get_hf_file_metadata", fails)
    with pytest.raises(ClipteaError) as refused:
        download("openai", tag_config(MODEL, "openai"))
    assert words in refused.value.what
    assert "download ViT-B-16.pt or open_clip_model.safetensors" in refused.value.todo


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_without_safetensors_is_asked_for_the_pickle(monkeypatch, tmp_path):
    def answer(url, timeout):
        if url.endswith(".safetensors"):
            raise EntryNotFoundError("none")

    def get(repository, name):
        (tmp_path / repository).mkdir(parents=True)
        (tmp_path / repository / name).touch()
        return tmp_path / repository / name

    monkeypatch.setattr(hub, "get_hf_file_metadata", answer)
    monkeypatch.setattr(hub, "hf_hub_download", get)
    got = download("laion2b_s34b_b88k", tag_config("ViT-B-16", "laion2b_s34b_b88k"))
    assert got == tmp_path / "laion/CLIP-ViT-B-16-laion2B-s34B-b88K/open_clip_pytorch_model.bin"


def test_openais_weights_in_a_network_with_gelu_are_refused_before_a_download(monkeypatch):
    monkeypatch.setattr(clip, "download", None)
    with pytest.raises(TeacherError, match=r"QuickGELU.*--set teacher\.model=ViT-B-16-quickgelu"):
        load_teacher("openai", "ViT-B-16", 224)


def test_a_tag_of_another_architecture_names_it():
    with pytest.raises(TeacherError, match="only for ViT-B-16"):
        load_teacher("laion2b_s34b_b88k", MODEL, 224)


def test_an_unknown_tag_names_the_known_ones():
    with pytest.raises(TeacherError, match=r"teacher\.weights=none.*openai"):
        load_teacher("none", MODEL, 224)


def test_every_vision_transformers_tag_is_on_the_hub():
    """So that no download goes by another way, without a limit of time."""
    for model, tag in open_clip.list_pretrained():
        if model.startswith("ViT"):
            assert open_clip.get_pretrained_cfg(model, tag)["hf_hub"]
