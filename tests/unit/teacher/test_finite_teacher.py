"""CLIP whose weights or outputs are not finite makes no tokens and no text features."""

import json
import math
import shutil

import pytest
import safetensors.torch
import torch

from cliptea import settings
from cliptea.errors import NotFinite, TeacherError
from cliptea.storage import open_store
from cliptea.teacher.clip import Teacher, load_teacher
from cliptea.teacher.pretrain import CHECKPOINT, WEIGHTS, pretrain
from cliptea.teacher.text import text_features

BAD = [math.nan, math.inf]


@pytest.mark.parametrize("value", [*BAD, 1e300])  # the last one in float64
@pytest.mark.parametrize("name", ["visual.conv1.weight", "ln_final.bias", "logit_scale"])
def test_weights_that_are_not_finite_are_refused_by_name(folder, tmp_path, name, value):
    spoiled = shutil.copytree(folder, tmp_path / "clip")
    file = spoiled / "open_clip_model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights[name] = weights[name].double()
    weights[name].view(-1)[-1] = value
    safetensors.torch.save_file(weights, file)
    with pytest.raises(TeacherError, match=f"^{name} in the weights {file} holds NaN or infinity"):
        load_teacher(str(spoiled), "none", 48)


@pytest.mark.parametrize("value", BAD)
def test_a_text_tower_that_computes_nan_is_refused_with_the_class(folder, monkeypatch, value):
    teacher, encode = load_teacher(str(folder), "none", 48), Teacher.encode_text
    monkeypatch.setattr(
        Teacher, "encode_text", lambda self, texts: encode(self, texts) * (value if "dog" in texts[0] else 1)
    )
    assert torch.isfinite(text_features(teacher, ["cat"], "single")).all()
    with pytest.raises(NotFinite, match="the text feature of 'dog'"):
        text_features(teacher, ["cat", "dog"], "single")


@pytest.mark.parametrize(("kind", "factor"), [(0, math.nan), (0, math.inf), (1, math.nan), (1, 1e6)])
def test_tokens_that_are_not_finite_are_never_stored(make, monkeypatch, kind, factor):
    """Dense tokens are stored as float16, in which 1e6 is infinite."""
    tokens = Teacher.tokens

    def spoiled(self, *given):
        both = list(tokens(self, *given))
        both[kind] = both[kind].clone()
        both[kind][-1].fill_(factor)
        return tuple(both)

    monkeypatch.setattr(Teacher, "tokens", spoiled)
    with pytest.raises(NotFinite, match=("the CLS token of view .*", "the dense tokens of view .*")[kind]):
        make()
    assert [entry.key for entry in open_store().entries("") if entry.key.split("/")[0] != "split"] == []


def small():
    over = ["teacher.pretrain.detail_iterations=60", "teacher.pretrain.detail_batch=2", "teacher.pretrain.scenes=4"]
    over += ["teacher.pretrain.crop_iterations=1", "teacher.pretrain.scene_iterations=1"]
    config = settings.load("smoke", over)
    return config.data.world, config.teacher.pretrain


def test_a_pre_training_that_diverges_leaves_no_weights(tmp_path, monkeypatch):
    from cliptea.teacher import pretrain as module

    loss = module._loss
    monkeypatch.setattr(module, "_loss", lambda *given: loss(*given) * math.nan)
    with pytest.raises(NotFinite, match="diverged in iteration 1"):
        pretrain(tmp_path, *small(), 0)
    assert not (tmp_path / WEIGHTS).exists()


def test_a_damaged_checkpoint_of_the_pre_training_is_noted_and_not_used(tmp_path, monkeypatch):
    from cliptea.teacher import pretrain as module

    whole, cut, said = tmp_path / "whole", tmp_path / "cut", []
    pretrain(whole, *small(), 0)
    loss, count = module._loss, iter(range(10**6))

    def killed(*given):
        if next(count) == 55:
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(module, "_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(cut, *small(), 0)
    monkeypatch.setattr(module, "_loss", loss)
    wrong = bytearray((cut / CHECKPOINT).read_bytes())
    wrong[len(wrong) // 2] ^= 1
    (cut / CHECKPOINT).write_bytes(wrong)
    monkeypatch.setattr(module.progress, "warn", said.append)
    pretrain(cut, *small(), 0)
    assert len(said) == 1
    assert "is damaged" in said[0]
    assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert json.loads((cut / "open_clip_config.json").read_text())
