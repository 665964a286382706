"""Weights that encoders start from: formats, layouts, and what does not fit."""

import contextlib
import errno
import hashlib
import os
import random
import re
import zipfile

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from cliptea import files, progress, settings
from cliptea.errors import ConfigError, StorageError
from cliptea.models import build_student, encoder_weights
from cliptea.models.encoder_weights import read_state
from cliptea.weights_source import WeightsSource


def encoder_state(name):
    return build_student(name, channels=8).encoder.state_dict()


def classifier_of(state):
    """An original checkpoint of MSCAN or MiT: the encoder's weights and a classifier."""
    layout = {re.sub(r"(block\d\.\d+\.mlp)\.dwconv\.(?!dwconv)", r"\1.dwconv.dwconv.", k): v for k, v in state.items()}
    return layout | {"head.weight": torch.randn(1000, 256), "head.bias": torch.randn(1000)}


def check(name, pretrained, wanted):
    """The encoder built with the weights has exactly these."""
    state = build_student(name, channels=8, pretrained=pretrained).encoder.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)


def refused(name, pretrained):
    with pytest.raises(ConfigError) as error:
        build_student(name, channels=8, pretrained=pretrained)
    assert "\n" not in str(error.value)
    return str(error.value)


def randomised(state):
    return {k: torch.randn_like(v) if v.is_floating_point() else torch.full_like(v, 7) for k, v in state.items()}


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
@pytest.mark.parametrize("suffix", ["pth", "bin"])
def test_checkpoints_of_the_original_mscan_fit(tmp_path, wrapper, suffix):
    wanted = randomised(encoder_state("segnext_t"))
    content = classifier_of(wanted)
    assert "block1.0.mlp.dwconv.dwconv.weight" in content
    torch.save({wrapper: content, "meta": "a note"} if wrapper else content, tmp_path / f"mscan_t.{suffix}")
    check("segnext_t", str(tmp_path / f"mscan_t.{suffix}"), wanted)


def test_names_of_mscan_are_those_of_its_checkpoints():
    keys = encoder_state("segnext_t")
    gate = "block1.0.attn.spatial_gating_unit"
    wanted = ["patch_embed1.proj.0.weight", "patch_embed1.proj.4.running_mean", "patch_embed2.proj.weight"]
    wanted += ["patch_embed2.norm.weight", "block1.0.norm1.weight", "block1.0.attn.proj_1.weight"]
    wanted += [f"{gate}.{conv}.weight" for conv in ("conv0", "conv0_1", "conv0_2", "conv1_1", "conv2_2", "conv3")]
    wanted += ["block1.0.attn.proj_2.bias", "block1.0.norm2.bias", "block1.0.mlp.fc1.weight", "block4.1.mlp.fc2.bias"]
    wanted += ["block3.4.layer_scale_1", "block3.4.layer_scale_2", "norm1.weight", "norm4.bias"]
    assert [key for key in wanted if key not in keys] == []


def test_safetensors_of_openmmlabs_mscan_fit(tmp_path):
    wanted = randomised(encoder_state("segnext_t"))
    safetensors.torch.save_file(wanted, tmp_path / "mscan.safetensors")
    check("segnext_t", (tmp_path / "mscan.safetensors").as_uri(), wanted)


def test_the_mix_transformers_classifier_is_dropped(tmp_path):
    wanted = randomised(encoder_state("segformer_b0"))
    torch.save(classifier_of(wanted), tmp_path / "mit_b0.pth")
    assert "block1.0.mlp.dwconv.dwconv.weight" in wanted
    check("segformer_b0", str(tmp_path / "mit_b0.pth"), wanted)


@pytest.mark.parametrize(
    ("name", "encoder", "features"),
    [
        ("timm:resnet18", "resnet18", ""),
        ("convnext_atto", "convnext_atto", "stages."),
        pytest.param("timm:twins_svt_small", "twins_svt_small", "model.", marks=pytest.mark.long),
    ],
)
def test_a_classifier_of_timm_fits_its_pyramid(tmp_path, name, encoder, features):
    state = randomised(timm.create_model(encoder).state_dict())
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    loaded = build_student(name, channels=8, pretrained=str(tmp_path / "model.safetensors")).encoder.model.state_dict()
    renamed = {"stages.": ("stages.", "stages_"), "stem.": ("stem.", "stem_")}
    for key, value in loaded.items():
        theirs = key.removeprefix("model.")
        for dotted, joined in renamed.values():
            theirs = re.sub(rf"^{joined}", dotted, theirs)
        assert torch.equal(value, state[theirs]), key
    assert len(loaded) >= len(state) - 6  # without the classifier and the norm before it
    assert not features or any(features.replace(".", "") in key for key in loaded)


def test_swin_in_microsofts_layout_fits(tmp_path):
    """There, a stage ends with its downsampling, where timm's begins with it; masks and indices are kept as well."""
    state = randomised(timm.create_model("swin_tiny_patch4_window7_224").state_dict())
    original = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key): value
        for key, value in state.items()
    }
    original = {key.replace("head.fc.", "head."): value for key, value in original.items()}
    original |= {
        "layers.0.blocks.1.attn_mask": torch.zeros(1),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(1),
    }
    torch.save({"model": original}, tmp_path / "swin.pth")
    loaded = build_student("swin_t", channels=8, pretrained=str(tmp_path / "swin.pth")).encoder.model.state_dict()
    assert all(torch.equal(value, state[key.replace("layers_", "layers.")]) for key, value in loaded.items())


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path):
    state = encoder_state("segnext_t")
    state["stranger.weight"] = state.pop("block1.0.norm1.weight")
    state["norm4.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    message = refused("segnext_t", str(tmp_path / "w.pth"))
    assert "1 missing (block1.0.norm1.weight)" in message
    assert "1 unexpected (stranger.weight)" in message
    assert "1 with another shape (norm4.bias)" in message


def test_weights_of_another_network_do_not_fit(tmp_path):
    torch.save(encoder_state("segformer_b0"), tmp_path / "mit.pth")
    for name in ("segnext_t", "timm:resnet18", "convnext_atto"):
        assert "mit.pth" in refused(name, str(tmp_path / "mit.pth"))


class Payload:
    def __reduce__(self):
        return print, ("code that a checkpoint must not run",)


@pytest.mark.parametrize(
    ("file", "content"), [("a.pth", Payload()), ("a.pth", [1, 2]), ("a.bin", {"state_dict": {"x": "y"}})]
)
def test_files_that_hold_more_than_tensors_are_refused(tmp_path, capsys, file, content):
    torch.save(content, tmp_path / file)
    assert file in refused("segnext_t", str(tmp_path / file))
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["a.pth", "a.safetensors", "a.txt"])
def test_files_of_another_kind_are_refused(tmp_path, file):
    (tmp_path / file).write_bytes(b"not weights")
    assert "expected a .safetensors file" in refused("segnext_t", str(tmp_path / file))


def test_the_object_store_is_asked_for_its_file(tmp_path, monkeypatch):
    asked = []
    wanted = randomised(encoder_state("segnext_t"))
    safetensors.torch.save_file(wanted, tmp_path / "m.safetensors")
    monkeypatch.setattr("cliptea.storage.fetch", lambda uri: asked.append(uri) or tmp_path / "m.safetensors")
    check("segnext_t", "s3://weights/mscan/m.safetensors", wanted)
    assert asked == ["s3://weights/mscan/m.safetensors"]


DOWNLOADS = [
    ("segformer_b0", True, "cliptea.models.encoder_weights.load_state_dict_from_hf", "smp-hub/mit_b0.imagenet@"),
    ("convnext_atto", True, "cliptea.models.encoder_weights.load_state_dict_from_hf", "timm/convnext_atto.d2_in1k"),
    ("timm:resnet18", "tv_in1k", "cliptea.models.encoder_weights.load_state_dict_from_hf", "timm/resnet18.tv_in1k"),
    ("segnext_t", True, "torch.hub.load_state_dict_from_url", "/segnext/mscan_t_20230227-119e8c9f.pth"),
]


@pytest.mark.parametrize(("name", "pretrained", "client", "origin"), DOWNLOADS)
def test_a_failed_download_says_which_file_to_give(monkeypatch, name, pretrained, client, origin):
    def unreachable(where, **options):
        raise OSError(f"We couldn't connect\nto {where}")

    monkeypatch.setattr(client, unreachable)
    message = refused(name, pretrained)
    assert origin.rstrip("@") in message
    assert "set student.pretrained to its path" in message


@pytest.mark.parametrize(("name", "pretrained", "client", "origin"), DOWNLOADS)
def test_downloaded_weights_are_loaded(monkeypatch, name, pretrained, client, origin):
    asked = []
    if name.startswith("seg"):
        state = classifier_of(randomised(encoder_state(name)))
    else:
        state = randomised(timm.create_model({"timm:resnet18": "resnet18"}.get(name, name)).state_dict())
    monkeypatch.setattr(client, lambda where, **options: asked.append(where) or state)
    loaded = build_student(name, channels=8, pretrained=pretrained).encoder.state_dict()
    assert len(asked) == 1
    assert origin in asked[0]
    values = {float(value.double().sum()) for value in state.values()}
    assert all(float(value.double().sum()) in values for value in loaded.values())


def flipped(content):
    """With one bit changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_damaged_copy_of_torchs_hub_is_downloaded_again(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    wanted, told = {"a": torch.arange(100.0)}, []
    monkeypatch.setattr(progress, "note", told.append)
    torch.save(wanted, tmp_path / "file")
    digest = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    published = (tmp_path / "file").rename(tmp_path / f"net-{digest[:8]}.pth")
    copy = tmp_path / "hub/checkpoints" / published.name
    assert torch.equal(encoder_weights.from_url(published.as_uri())["a"], wanted["a"])
    copy.write_bytes(flipped(copy.read_bytes()))
    os.utime(copy, (0, 0))
    assert torch.equal(encoder_weights.from_url(published.as_uri())["a"], wanted["a"])
    assert copy.read_bytes() == published.read_bytes()
    assert len(told) == 1
    assert "damaged" in told[0]
    copy.unlink()
    torch.save({"a": torch.zeros(3)}, published)  # what arrives is not what the name says
    with pytest.raises(ConfigError, match="what was downloaded is damaged"):
        encoder_weights.from_url(published.as_uri())


@pytest.mark.parametrize("kind", ["sha256", "git", "sha1", "none"])
def test_a_damaged_copy_of_the_hub_is_deleted_before_timm_reads_it(monkeypatch, tmp_path, kind):
    content = np.random.default_rng(3).bytes(2000)
    hashes = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "git": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest(),
        "sha1": hashlib.sha1(content).hexdigest(),  # of mirrors
        "none": "model",
    }
    home = tmp_path / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots/abc").mkdir(parents=True)
    blob, copy = home / "blobs" / hashes[kind], home / "snapshots/abc/model.safetensors"
    copy.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    seen = []
    state = {"a": torch.ones(2)}
    monkeypatch.setattr(
        encoder_weights, "load_state_dict_from_hf", lambda where: seen.append((where, copy.exists())) or state
    )
    for held in (content, flipped(content)):
        blob.write_bytes(held)
        encoder_weights.from_hub("a/b@abc")
    assert seen == [("a/b@abc", True), ("a/b@abc", kind == "none")]


SYSTEM = [
    (PermissionError(errno.EACCES, "Permission denied", "file"), "this user may not do that"),
    (OSError(errno.EIO, "Input/output error"), "the disk has an input/output error"),
    (OSError(errno.EMFILE, "Too many open files"), "the limit of open files is reached"),
    (MemoryError(), "memory is exhausted"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory is exhausted"),
]


@pytest.mark.parametrize(("error", "meaning"), SYSTEM)
def test_an_error_of_the_system_is_no_damage_of_the_weights(monkeypatch, tmp_path, error, meaning):
    def fails(*arguments, **options):
        raise error

    torch.save(encoder_state("segnext_t"), tmp_path / "w.pth")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(StorageError, match=rf"^cannot read the weights .*w\.pth: {meaning}"):
        build_student("segnext_t", channels=8, pretrained=str(tmp_path / "w.pth"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fails)
    with pytest.raises(StorageError, match=rf"^cannot download the weights .*: {meaning}.*set student\.pretrained to"):
        build_student("segnext_t", channels=8, pretrained=True)


@pytest.mark.parametrize(
    ("written", "read"), [("true", True), ("false", False), ("ms_in22k", "ms_in22k"), ("a/b.pth", "a/b.pth")]
)
def test_the_setting_is_a_switch_a_tag_or_a_file(written, read):
    given = settings.load("demo", [f"student.pretrained={written}"]).student.pretrained
    assert (type(given), given) == (type(read), read)


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},  # DDP
        lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},  # torch.compile
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.{key}": v for key, v in state.items()}, "epoch": 3, "global_step": 9},
        lambda state: {"state_dict": {f"net._orig_mod.{key}": v for key, v in state.items()}, "callbacks": {}},
        lambda state: {"model": randomised(state), "model_ema": state, "optimizer": {}},
        lambda state: {"state_dict": randomised(state), "state_dict_ema": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"n_averaged": torch.tensor(5), **{f"module.{key}": value for key, value in state.items()}},
        lambda state: (
            {f"online_model.{k}": v for k, v in randomised(state).items()}
            | {f"ema_model.{k}": v for k, v in state.items()}
            | {"initted": torch.tensor(True), "step": torch.tensor(7)}
        ),
        lambda state: {"model_state_dict": state, "epoch": 1},
    ],
    ids=range(11),
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_layouts_of_training_programs_fit(tmp_path, layout, suffix):
    wanted = randomised(encoder_state("segnext_t"))
    content = layout(wanted)
    file = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(content, file)
    elif all(isinstance(value, torch.Tensor) for value in content.values()):
        safetensors.torch.save_file(content, file)
    else:
        return
    check("segnext_t", str(file), wanted)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            {"student.backbone.weight": torch.ones(1), "loss.scale": torch.ones(1)},
            "unexpected (student.backbone.weight",
        ),
        ({"state_dict": {"a": torch.ones(1), "b": "text"}}, "b (str)"),
        ([torch.ones(1)], "list"),
        ({}, "dict"),
    ],
)
def test_other_layouts_are_refused_with_what_was_found(tmp_path, content, found):
    torch.save(content, tmp_path / "w.pth")
    assert found in refused("segnext_t", str(tmp_path / "w.pth"))


def test_damaged_weights_are_one_line(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.randn(40)}, whole)
    rng = random.Random(0)
    for _ in range(60):
        data = bytearray(whole.read_bytes())
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "w.pth").write_bytes(
            bytes(data[: rng.randrange(1, len(data))]) if rng.random() < 0.3 else bytes(data)
        )
        with contextlib.suppress(ConfigError):
            read_state(WeightsSource.of(str(tmp_path / "w.pth")), lambda tag: {})
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(files.MOST_SAVED + (1 << 20)))
    assert "it would unpack to far more than its size" in refused("segnext_t", str(tmp_path / "bomb.pth"))
    os.mkfifo(tmp_path / "pipe.pth")
    assert "it is a named pipe" in refused("segnext_t", str(tmp_path / "pipe.pth"))
