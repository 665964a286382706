"""ONNX files compute what torch does, at sizes that the exporter has not seen, or are not written."""

import errno
import json
import math
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from naive_logits import class_logits
from PIL import Image
from plain_student import Plain

from cliptea.config import EvaluationConfig
from cliptea.errors import ClipteaError, ConfigError, NotFinite
from cliptea.models import STUDENTS, build_student
from cliptea.segment.model_files import Description, TeacherSource
from cliptea.segment.segmenter import Segmenter
from cliptea.serving import export, formats
from cliptea.serving.choices import SUFFIXES
from cliptea.serving.export import Form, export_model
from cliptea.serving.export_facts import mask_recipe
from cliptea.serving.graph import Network, PlainPooling
from cliptea.serving.parity import NotExported, check_onnx

QUICK = ["demo_fpn", "convnext_atto"]
LONG = ["segformer_b0", "segnext_t", "swin_t", "timm:resnet18", "timm:test_vit"]


def made(backbone, dim=16, **evaluation):
    torch.manual_seed(1)
    text = torch.nn.functional.normalize(torch.randn(3, dim), dim=1)
    description = Description(
        backbone=backbone,
        dim=dim,
        classes=["a", "b", "c"],
        unseen=["c"],
        evaluation=EvaluationConfig(**{"scale": (96, 64), "gamma": 0.5} | evaluation),
        teacher=TeacherSource(weights="", model="none", templates=["{} from above"], crop=32),
    )
    return Segmenter(build_student(backbone, dim).eval(), description, text)


@pytest.mark.timeout(1800)  # shifted windows take torch's exporter minutes
@pytest.mark.parametrize("backbone", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_the_file_computes_what_evaluation_does(backbone, tmp_path):
    assert backbone in STUDENTS or backbone.startswith("timm:")
    model = made(backbone)
    exported = export_model(model, tmp_path / "student.onnx")
    assert exported.fixed is None
    assert exported.parity.difference < 1e-4
    assert exported.parity.equal >= 0.999
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(2).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    told = json.loads((tmp_path / "student.json").read_text())
    embeddings = np.array(told["embeddings"], np.float32)
    (logits,) = session.run(
        None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32), "embeddings": embeddings}
    )
    expected = class_logits(model.student, image, model.text_ND, model.description.evaluation).numpy()
    assert np.abs(logits[0] - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    assert (told["classes"], told["gamma"], told["divisor"]) == (["a", "b", "c"], 0.5, 32)
    assert told["templates"] == ["{} from above"]


def enlarged(maps_Nhw, size):
    """Step 5 along each side."""
    for axis, length in enumerate(size, start=1):
        pixels = maps_Nhw.shape[axis]
        at = np.maximum((np.arange(length) + 0.5) * pixels / length - 0.5, 0)
        lower = np.minimum(at.astype(int), pixels - 1)
        upper, share = np.minimum(lower + 1, pixels - 1), at - lower
        share = share[:, None] if axis == 1 else share
        maps_Nhw = maps_Nhw.take(lower, axis) * (1 - share) + maps_Nhw.take(upper, axis) * share
    return maps_Nhw


def raised(session, told, image):
    """Logits with gamma: the steps of student.json up to the argmax, by Pillow, NumPy and onnxruntime alone."""
    height, width = image.shape[:2]
    scale, divisor = told["scale"], told["divisor"]
    if told["size"] is None:
        f = min(max(scale) / max(height, width), min(scale) / min(height, width))
    else:
        f = min(told["size"][0] / height, told["size"][1] / width)
    h, w = max(1, int(height * f + 0.5)), max(1, int(width * f + 0.5))
    if (h, w) != (height, width):
        image = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    size = told["size"] or (h + -h % divisor, w + -w % divisor)
    padded = np.tile(np.float32(told["padding"]), (*size, 1))
    padded[:h, :w] = image
    images, embeddings = padded.transpose(2, 0, 1)[None], np.float32(told["embeddings"])
    (logits,) = session.run(None, {"images": images, "embeddings": embeddings})
    logits = enlarged(logits[0, :, :h, :w], (height, width))
    logits[[told["classes"].index(name) for name in told["unseen"]]] += told["gamma"]
    return logits


SIZES = [(64, 96), (63, 95), (45, 71), (130, 61), (33, 200), (301, 211), (7, 5), (200, 200)]


def test_the_steps_beside_the_file_give_the_masks_of_predict(tmp_path):
    model = made("demo_fpn", gamma=0.02)
    export_model(model, tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    told = json.loads((tmp_path / "student.json").read_text())
    assert len(told["steps"]) == 6
    assert told["padding"] == [123.675, 116.28, 103.53]  # zero after normalisation
    assert all(key in " ".join(told["steps"]) for key in ("scale", "divisor", "padding", "gamma", "unseen", "classes"))
    rng, ids = np.random.default_rng(3), set()
    for size in SIZES:
        small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))
        expected = model.mask(image, model.known())
        logits = raised(session, told, image)
        assert (logits.argmax(0) == expected).mean() >= 0.999, size
        ours = class_logits(model.student, image, model.text_ND, model.description.evaluation).numpy()
        ours[2] += 0.02  # a mask of few classes alone would hide a wrong step
        assert np.abs(logits - ours).max() < 1e-4 * max(1, np.abs(ours).max()), size
        ids |= set(np.unique(expected))
    assert len(ids) > 1  # else everything agrees


def test_the_steps_speak_of_a_single_size_and_of_windows(tmp_path):
    model = made("demo_fpn")
    export_model(model, tmp_path / "student.onnx", Form(size=(64, 96)))
    told = json.loads((tmp_path / "student.json").read_text())
    assert "f = min(64 / height, 96 / width)" in told["steps"][0]
    assert "up to 64 x 96" in told["steps"][2]
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(4).integers(0, 256, (57, 96, 3), dtype=np.uint8)  # which fits scale and size alike
    assert (raised(session, told, image).argmax(0) == model.mask(image, model.known())).mean() >= 0.999
    sliding = EvaluationConfig(mode="slide", window=64, stride=40)
    assert "windows of 64 pixels every 40" in mask_recipe(sliding, None)[3]


def test_pooling_by_products_is_adaptive_pooling():
    maps = torch.randn(2, 3, 13, 7)
    for pooled in (1, 2, 3, 6, 9):
        expected = torch.nn.functional.adaptive_avg_pool2d(maps, pooled)
        assert torch.allclose(PlainPooling(pooled)(maps), expected, atol=1e-6)


class Exported(Plain):
    """A student that is another network while it is exported."""

    def __init__(self, plain, exported):
        super().__init__()
        self.plain, self.exported = plain, exported

    def forward(self, images):
        return self.exported(images) if torch.compiler.is_exporting() else self.plain(images)


def patches(scale=1.0):
    torch.manual_seed(2)
    convolution = torch.nn.Conv2d(3, 16, 8, 8)
    convolution.weight.data *= scale
    return Plain(convolution)


def test_a_file_that_computes_something_else_is_not_put_in_place(tmp_path):
    model = made("demo_fpn")
    model.student = Exported(patches(), patches(1.01))
    with pytest.raises(NotExported, match=r"logits by .*masks in"):
        export_model(model, tmp_path / "student.onnx", Form(size=(32, 64)))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_earlier_export(tmp_path, monkeypatch):
    model = made("demo_fpn")
    model.student = patches()
    export_model(model, tmp_path / "student.onnx", Form(size=(32, 32)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClipteaError, match="disk is full"):
        export_model(model, tmp_path / "student.onnx", Form(size=(64, 64)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class OneHeight(Plain):
    """A student that cannot be exported for any height."""

    def __init__(self, height):
        super().__init__()
        self.patches, self.height = patches(), height

    def forward(self, images):
        assert images.shape[2] == self.height
        return self.patches(images)


def test_where_any_size_cannot_be_had_one_is_made_and_said(tmp_path, capsys):
    model = made("demo_fpn")
    model.student = OneHeight(64)
    assert export_model(model, tmp_path / "student.onnx").fixed == (64, 64)
    told = capsys.readouterr().err
    assert all(fact in told for fact in ("torch cannot export", "64x64", "--size"))
    assert json.loads((tmp_path / "student.json").read_text())["size"] == [64, 64]


def test_a_file_that_onnxruntime_refuses_is_one_line(tmp_path):
    model = made("demo_fpn")
    model.student = patches()
    export_model(model, tmp_path / "student.onnx", Form(size=(32, 32)))
    data = (tmp_path / "student.onnx").read_bytes()
    with pytest.raises(NotExported, match="onnxruntime") as caught:
        check_onnx(data[: len(data) // 2], Network(model), 16, [(1, 32, 32, 1)])
    assert "\n" not in str(caught.value)


def test_an_export_does_not_load_clip():
    code = "import sys, cliptea.serving.export; sys.exit('open_clip' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"30x64.*32"):
        export_model(made("demo_fpn"), tmp_path / "student.onnx", Form(size=(30, 64)))


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch-export"])
def test_nan_does_not_hide_in_exported_classes(model, tmp_path, format):
    with torch.no_grad():
        for weight in model.student.parameters():
            weight.mul_(1e30)  # finite, but what is computed with them is not
    form = Form(format, (64, 64), model.known(), "classes")
    with pytest.raises(NotFinite, match="a logit of the network holds NaN or infinity"):
        export_model(model, tmp_path / f"student{SUFFIXES[format]}", form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "precision"), [("onnx", "float16"), ("openvino", "float32")])
def test_logits_of_every_photo_are_checked_where_classes_hide_nan(tmp_path, monkeypatch, format, precision):
    """What runs the file computes NaN for the second photo, which is bright, as an overflow of float16 may do."""
    model = made("demo_fpn")
    model.student = patches()
    photos = [tmp_path / "dark.png", tmp_path / "bright.png"]
    for photo, brightness in zip(photos, (100, 255), strict=True):
        Image.new("RGB", (64, 64), (brightness,) * 3).save(photo)

    def failing(runner):
        def run_of(network):
            run = runner(network)

            def result(image):
                found = run(image)
                return found * np.float32(np.nan) if image.mean() > 250 and found.dtype == np.float32 else found

            return result

        return run_of

    for module, name in ((export, "onnx_runner"), (formats, "openvino_runner")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    form = Form(format, (64, 64), model.known(), "classes", precision, photos)
    with pytest.raises(NotFinite, match=r"the logits of \w+ hold NaN or infinity; .*--precision float32"):
        export_model(model, tmp_path / "out" / f"a{SUFFIXES[format]}", form)
    assert not (tmp_path / "out").exists()


def test_a_network_that_computes_nan_is_not_exported(model, tmp_path):
    with torch.no_grad():
        next(model.student.parameters()).fill_(math.nan)  # after loading, where it would be refused
    with pytest.raises(ClipteaError, match="NaN or infinity"):
        export_model(model, tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []
