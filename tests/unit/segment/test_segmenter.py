"""A mask is the argmax of the evaluation's own logits, however large the image is."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from naive_logits import class_logits
from PIL import Image
from typer.testing import CliRunner

from cliptea import device
from cliptea.errors import ConfigError, StorageError, Unusable
from cliptea.models import build_student
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import rank
from cliptea.segment.segmenter import open_segmenter
from cliptea_pipeline.cli import app


def picture(height, width, seed=0):
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
    return blocks.repeat(7, 0).repeat(7, 1)[:height, :width]


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (200, 120), (1, 1)])
def test_a_mask_is_what_evaluation_predicts(model, size):
    image = picture(*size)
    logits = class_logits(model.student, image, model.text_ND, model.description.evaluation)
    expected = rank(ImageLogits(logits, size, size, size), [3]).predict(0.02).cpu().numpy()
    mask = model.mask(image, model.known())
    assert mask.dtype == np.uint8
    assert (mask == expected).all()
    if size == (200, 120):
        assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_images_of_one_padded_size_go_through_the_network_together(model, mode):
    evaluation = model.description.evaluation.model_copy(update={"mode": mode, "window": 32, "stride": 24})
    model.description = model.description.model_copy(update={"evaluation": evaluation})
    sizes = [(64, 96), (128, 190), (65, 95), (60, 90)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    assert {model.padded_size(image) for image in images} == {(64, 96)}
    seen = []
    model.student.encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    masks = list(model.masks(images, model.known()))
    if mode == "whole":
        assert seen == [4]
    for image, mask in zip(images, masks, strict=True):
        assert mask.shape == image.shape[:2]
        assert (mask == model.mask(image, model.known())).mean() > 0.9999  # sums are rounded in another order
    assert len({mask.tobytes() for mask in masks}) == 4


def test_some_of_the_classes_keep_their_embeddings_and_gamma(model):
    chosen = model.known(["zebra", "sky"])
    assert torch.equal(chosen.text_ND, model.text_ND[[3, 0]])
    assert chosen.gamma_N.tolist() == pytest.approx([0.02, 0.0])


def test_a_class_that_the_model_does_not_know_is_named(model):
    with pytest.raises(ConfigError, match="does not know 'sofa', 'dog'; expected names from sky, grass, cow, zebra"):
        model.known(["sky", "sofa", "dog"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.json", b"{}"), ("model.safetensors", b"cut"), ("text.safetensors", None), ("model.json", b"\xff")],
)
def test_a_damaged_model_is_one_line(model_folder, tmp_path, name, content):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(StorageError, match="does not hold a cliptea model"):
        open_segmenter(folder)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "w"), "this user may not do that"),
        (OSError(errno.EIO, "Input/output error"), "the disk has an input/output error"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is exhausted"),
    ],
)
def test_an_error_of_the_system_is_no_damage_of_the_model(model_folder, monkeypatch, error, meaning):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("cliptea.segment.segmenter.read_model", fails)
    with pytest.raises(Unusable, match=f"^cannot read the model in .*: {meaning}"):
        open_segmenter(model_folder)


CODE = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("ran").touch()
def network(channels): return nn.Conv2d(3, channels, 8, stride=8)
"""


TEACHER = {"weights": "openai", "model": "ViT-B-16-quickgelu", "templates": "single", "crop": 512}


def rewritten(model_folder, tmp_path, **changes):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    described = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("inside", ["", "artifacts/student"])
def test_a_model_that_names_code_needs_permission(model_folder, tmp_path, monkeypatch, inside):
    home = tmp_path / "code"
    home.mkdir()
    module = f"users_network_{len(inside)}"
    (home / f"{module}.py").write_text(CODE)
    monkeypatch.syspath_prepend(home)
    found = rewritten(model_folder, tmp_path, backbone=f"{module}:network")
    student = build_student(f"{module}:network", 16)
    (home / "ran").unlink()
    monkeypatch.delitem(sys.modules, module)
    safetensors.torch.save_file(student.state_dict(), found / "model.safetensors")
    folder = Path(shutil.copytree(found, tmp_path / "mlflow" / inside)) if inside else found
    folder = tmp_path / "mlflow" if inside else folder
    with pytest.raises(ConfigError, match=rf"names code of its own to run: {module}:network.*--allow-code"):
        open_segmenter(folder)
    assert not (home / "ran").exists()
    for command in ("predict", "export"):
        given = [str(tmp_path / "a.png")] if command == "predict" else []
        output = ["-o", str(tmp_path / "a.onnx")]
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        answer = CliRunner().invoke(app, [command, *given, "--model", str(folder), *output])
        assert (answer.exit_code, answer.stderr.count("\n")) == (2, 1)
        assert "--allow-code" in answer.stderr
    assert not (home / "ran").exists()
    model = open_segmenter(folder, allow_code=True)
    assert model.mask(np.zeros((64, 64, 3), np.uint8), model.known()).shape == (64, 64)
    assert (home / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 0}, {"dim": -1}, {"dim": 10**29}, {"dim": "x"}, {"classes": []}, {"classes": ["sky", "sky"]},
        {"classes": [1, 2, 3, 4]}, {"unseen": ["sofa"]}, {"classes": ["sky", "grass"], "unseen": []}, {"dim": 8},
        {"evaluation": {"scale": [10**29, 64]}}, {"evaluation": {"gamma": float("nan")}}, {"evaluation": {"x": 1}},
        {"evaluation": {"gamma": float("inf")}}, {"backbone": None}, {"backbone": ["demo_fpn"]},
        {"teacher": TEACHER | {"templates": "x"}}, {"teacher": TEACHER | {"templates": ["a photo"]}},
        {"teacher": TEACHER | {"templates": []}}, {"teacher": TEACHER | {"synonyms": {"sky": []}}},
    ],
)  # fmt: skip
def test_an_absurd_description_is_one_line(model_folder, tmp_path, changes):
    with pytest.raises(StorageError, match="does not hold a cliptea model") as caught:
        open_segmenter(rewritten(model_folder, tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_the_teacher_of_a_description_is_read(model_folder, tmp_path):
    folder = rewritten(model_folder, tmp_path, teacher=TEACHER | {"synonyms": {"sky": ["heaven"]}})
    assert open_segmenter(folder).description.teacher.synonyms == {"sky": ["heaven"]}


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"dim": 1, "dim": 2}', b'{"a":' * 100_000, b"9" * 10_000])
def test_a_hostile_description_is_one_line(model_folder, tmp_path, text):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "model.json").write_bytes(text)
    with pytest.raises(StorageError, match="does not hold a cliptea model"):
        open_segmenter(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "text.safetensors", "SHA256SUMS"])
def test_a_named_pipe_in_a_model_is_not_opened(model_folder, tmp_path, name):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(StorageError, match=f"{name} is a named pipe|the file .* is a named pipe"):
        open_segmenter(folder)


def test_float32_is_exact_as_in_the_evaluate_step(model_folder, monkeypatch):
    """By default, torch rounds the factors of convolutions on a GPU (TF32)."""
    for prepared in (lambda: open_segmenter(model_folder), device.prepare):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        prepared()
        assert torch.backends.cudnn.allow_tf32 is False
        assert torch.backends.cuda.matmul.allow_tf32 is False
