"""ONNX files compute what torch does, at sizes that the exporter has not seen, or are not written."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from cliptea.config import EvaluationConfig
from cliptea.errors import ClipteaError, ConfigError
from cliptea.evaluation.inference import class_logits
from cliptea.models import STUDENTS, build_student
from cliptea.serving import export
from cliptea.serving.export import export_onnx
from cliptea.serving.graph import Network, _Pooling
from cliptea.serving.parity import NotExported, check_onnx
from cliptea.serving.segmenter import Description, Segmenter

QUICK = ["demo_fpn", "segformer_b0", "convnext_atto"]
LONG = ["segnext_t", "swin_t", "timm:resnet18"]


def made(backbone, dim=16):
    torch.manual_seed(1)
    text = torch.nn.functional.normalize(torch.randn(3, dim), dim=1)
    description = Description(
        backbone=backbone,
        dim=dim,
        classes=["a", "b", "c"],
        unseen=["c"],
        evaluation=EvaluationConfig(scale=(96, 64), gamma=0.5),
    )
    return Segmenter(build_student(backbone, dim).eval(), description, text)


@pytest.mark.timeout(1800)  # shifted windows take torch's exporter minutes
@pytest.mark.parametrize("backbone", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_the_file_computes_what_evaluation_does(backbone, tmp_path):
    assert backbone in STUDENTS or backbone.startswith("timm:")
    model = made(backbone)
    exported = export_onnx(model, tmp_path / "student.onnx")
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


def test_pooling_by_products_is_adaptive_pooling():
    maps = torch.randn(2, 3, 13, 7)
    for pooled in (1, 2, 3, 6, 9):
        expected = torch.nn.functional.adaptive_avg_pool2d(maps, pooled)
        assert torch.allclose(_Pooling(pooled)(maps), expected, atol=1e-6)


@pytest.fixture(scope="module")
def demo_onnx():
    """A student and its file for any size."""
    model = made("demo_fpn")
    return model, export._to_onnx(Network(model).eval(), model, None)


def test_a_file_that_computes_something_else_is_not_put_in_place(demo_onnx, tmp_path, monkeypatch):
    model, data = demo_onnx
    model.student.head.weight.data[0] += 0.01
    monkeypatch.setattr(export, "_to_onnx", lambda *_: data)
    with pytest.raises(ClipteaError, match="ONNX and torch differ: logits by"):
        export_onnx(model, tmp_path / "student.onnx", (32, 64))
    model.student.head.weight.data[0] -= 0.01
    assert list(tmp_path.iterdir()) == []


def test_where_any_size_cannot_be_had_one_is_made_and_said(demo_onnx, tmp_path, monkeypatch, capsys):
    model, data = demo_onnx

    def only_fixed(network, model, size):
        if size is None:
            raise NotExported("it is too hard")
        return data

    monkeypatch.setattr(export, "_to_onnx", only_fixed)
    assert export_onnx(model, tmp_path / "student.onnx").fixed == (64, 64)
    assert "it is too hard; the file is made for 64x64 alone (see --size)" in capsys.readouterr().err
    assert json.loads((tmp_path / "student.json").read_text())["size"] == [64, 64]


def test_a_file_that_onnxruntime_refuses_is_one_line(demo_onnx):
    model, data = demo_onnx
    with pytest.raises(NotExported, match="onnxruntime refuses the network"):
        check_onnx(data[: len(data) // 2], Network(model), 16, [(1, 32, 32, 1)])


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the size 30x64; expected multiples of 32"):
        export_onnx(made("demo_fpn"), tmp_path / "student.onnx", (30, 64))
