"""Exports with fixed classes, other results, lower precision and other formats compute what torch does."""

import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cliptea.models.student import Projection
from cliptea.segment.normalise import normalise
from cliptea.serving.choices import SUFFIXES
from cliptea.serving.export import Form, export_model
from cliptea.serving.formats import openvino_core, openvino_runner
from cliptea.serving.graph import MatrixProjection
from cliptea.serving.measured import measure
from cliptea.serving.parity import NotExported
from cliptea_pipeline.cli import app

SIZE = (64, 96)


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(0, 256, (1, 3, *SIZE)).astype(np.float32)


def expected(model, classes, image):
    """Logits (N, H, W) with gamma, from features and embeddings."""
    with torch.inference_mode():
        features = model.student(normalise(torch.from_numpy(image)))
        logits = torch.einsum("bdhw,nd->bnhw", features, classes.text_ND)
        return torch.nn.functional.interpolate(logits, SIZE, mode="bilinear")[0] + classes.gamma_N[:, None, None]


def facts_of(file):
    return json.loads(file.with_suffix(".json").read_text())


@pytest.mark.parametrize("output", ["logits", "probabilities", "classes"])
def test_classes_and_their_gamma_are_inside_of_the_file(output, model, image, tmp_path):
    classes, file = model.known(["zebra", "sky"]), tmp_path / "named.onnx"
    exported = export_model(model, file, Form(size=SIZE, classes=classes, output=output))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["images"]
    assert [one.name for one in session.get_outputs()] == [output]
    (found,) = session.run(None, {"images": image})
    logits = expected(model, classes, image)
    if output == "classes":
        assert (found.dtype, found.shape) == (np.uint8, (1, *SIZE))
        assert (found[0] == logits.argmax(0).numpy()).mean() >= 0.999
    else:
        reference = logits if output == "logits" else logits.softmax(0)
        assert np.abs(found[0] - reference.numpy()).max() < 1e-4
    told = facts_of(file)
    assert (told["classes"], told["unseen"], len(told["colours"])) == (["zebra", "sky"], ["zebra"], 2)
    assert told["gammas"] == pytest.approx([0.02, 0])
    assert not {"embeddings", "gamma"} & set(told)
    assert "Add gamma" not in " ".join(told["steps"])
    assert told["measured"]["equal"] == exported.measured.equal >= 0.999
    inside = {one.key: one.value for one in onnx.load(file).metadata_props}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads(inside["cliptea"]) | {"files": {"named.onnx": digest}} == told


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        small = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_int8_is_calibrated_on_some_images_and_measured_on_others(model, photos, tmp_path):
    exported = export_model(model, tmp_path / "plain.onnx", Form(size=SIZE, classes=model.known()))
    files = sorted(photos.iterdir())
    form = Form(size=SIZE, classes=model.known(), precision="int8", photos=files)
    small = export_model(model, tmp_path / "small.onnx", form)
    kinds = {node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node}
    assert "QuantizeLinear" in kinds
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "plain.onnx").stat().st_size / 2
    assert small.measured.inputs == "2 images"
    assert small.parity.difference < 1e-4  # of float32, which is checked first
    assert small.measured.difference > exported.measured.difference  # it does compute with fewer bits
    assert 0.9 < small.measured.equal <= 1
    told = facts_of(tmp_path / "small.onnx")
    assert (told["precision"], told["measured"]["inputs"]) == ("int8", "2 images")
    assert told["measured"]["milliseconds"] > 0
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    agreements = []
    for file in files[1::2]:
        photo = np.asarray(Image.open(file)).transpose(2, 0, 1)[None].astype(np.float32)
        (found,) = session.run(None, {"images": photo})
        agreements.append((found[0].argmax(0) == expected(model, model.known(), photo).argmax(0).numpy()).mean())
    assert small.measured.equal == pytest.approx(np.mean(agreements), abs=1e-3)


def test_float16_holds_half_of_the_bytes_and_takes_float32(model, image, tmp_path):
    export_model(model, tmp_path / "plain.onnx", Form(size=SIZE))
    file = tmp_path / "half.onnx"
    exported = export_model(model, file, Form(size=SIZE, precision="float16"))
    kinds = {one.data_type for one in onnx.load(file).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert file.stat().st_size < (tmp_path / "plain.onnx").stat().st_size * 0.7
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": image, "embeddings": model.text_ND.numpy()})
    classes = model.known()
    reference = expected(model, classes._replace(gamma_N=torch.zeros(4)), image).numpy()
    assert found.dtype == np.float32
    assert 1e-6 < np.abs(found[0] - reference).max() < 0.05 * max(1, np.abs(reference).max())
    assert 0.9 < exported.measured.equal <= 1


def test_a_program_of_torch_export_computes_the_same_for_any_size(model, image, tmp_path):
    file, classes = tmp_path / "student.pt2", model.known()
    assert export_model(model, file, Form("torch-export", classes=classes)).fixed is None
    inside = {"cliptea": ""}
    program = torch.export.load(io.BytesIO(file.read_bytes()), extra_files=inside).module()
    with torch.inference_mode():
        found = program(torch.from_numpy(image))[0]
    assert torch.allclose(found, expected(model, classes, image), atol=1e-4)
    told = facts_of(file)
    assert told.pop("files") == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert json.loads(inside["cliptea"]) == told


def test_openvino_computes_the_same_for_any_size(model, image, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    file, classes = tmp_path / "student.xml", model.known()
    assert export_model(model, file, Form("openvino", classes=classes)).fixed is None
    read = openvino_core().read_model(file)
    compiled = openvino_core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(compiled([image])[0][0] - expected(model, classes, image).numpy()).max() < 1e-4
    told = facts_of(file)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, file.with_suffix(".bin"))}
    assert told.pop("files") == hashes
    assert json.loads(read.get_rt_info("cliptea").value) == told


def test_openvino_takes_any_number_of_classes(model, image, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    file = tmp_path / "student.xml"
    assert export_model(model, file, Form("openvino")).fixed is None
    compiled = openvino_core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for names in (["sky"], ["zebra", "sky", "cow"]):
        classes = model.known(names)._replace(gamma_N=torch.zeros(len(names)))
        found = compiled([image, classes.text_ND.numpy()])[0]
        assert np.abs(found[0] - expected(model, classes, image).numpy()).max() < 1e-4


def test_what_openvino_cannot_compile_is_one_line():
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    ops = openvino.opset13
    images, weights = ops.parameter([1, 2, 4, 4], np.float32), ops.parameter([-1, 2, 1, 1], np.float32)
    product = ops.convolution(images, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    with pytest.raises(NotExported, match="OpenVINO cannot run the network") as caught:
        openvino_runner(openvino.Model([product], [images, weights]))
    assert "\n" not in str(caught.value)


SIGNALLED = """
import signal, subprocess
import numpy as np
from openvino import opset13 as ops, Model
from cliptea.serving.formats import openvino_runner

signal.signal(signal.SIGCHLD, lambda number, frame: None)
images = ops.parameter([1, 2, 4, 4], np.float32)
first = openvino_runner(Model([ops.relu(images)], [images]))
second = openvino_runner(Model([ops.relu(images)], [images]))
del first
del second
subprocess.run(["true"])
"""


def test_signals_still_arrive_after_openvino_has_run_two_networks():
    pytest.importorskip("openvino", reason="needs the extra openvino")
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", SIGNALLED], check=True, timeout=120)


def test_a_matrix_product_is_the_convolution():
    maps, weight, bias = torch.randn(2, 3, 5, 7), torch.randn(4, 3), torch.randn(4)
    assert torch.allclose(MatrixProjection()(maps, weight, bias), Projection()(maps, weight, bias), atol=1e-6)


def test_equal_pixels_are_averaged_over_images_by_their_area():
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.stack([torch.zeros(images.shape[2:]), torch.ones(images.shape[2:])])[None]

    def other(images):
        """Disagrees on all pixels of the small image, and on none of the large one."""
        logits = Constant()(images).numpy()
        return logits[:, ::-1] if images.shape[2] == 2 else logits

    inputs = [[np.zeros((1, 3, 2, 2), np.float32)], [np.zeros((1, 3, 6, 6), np.float32)]]
    found = measure(other, "a test", Constant(), inputs, "two images")
    assert found.equal == pytest.approx(36 / 40)
    assert found.difference == 1
    assert (found.size, found.inputs) == ((2, 2), "two images")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--result", "classes", "-o", "a.onnx"], "--result classes needs fixed classes; expected --names"),
        (["--precision", "int8", "-o", "a.onnx"], "--precision int8 has no images to calibrate with"),
        (["--format", "torch-export", "--precision", "float16", "-o", "a.pt2"], "has no --precision float16"),
        (
            ["--format", "torch-export", "-o", "a.onnx"],
            "cannot export to a.onnx; expected a file name that ends in .pt2",
        ),
        (["--images", "none", "-o", "a.onnx"], "the file or folder none does not exist"),
    ],
)
def test_choices_that_do_not_fit_together_are_refused(arguments, words, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["export", "--model", str(model_folder), *arguments])
    assert answer.exit_code in (1, 2)
    assert (words in answer.stderr, answer.stderr.count("\n")) == (True, 1), answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_agreement_and_time(model_folder, photos, tmp_path):
    arguments = ["--size", "64x96", "--names", "sky, zebra", "--precision", "int8", "--images", str(photos)]
    answer = CliRunner().invoke(
        app, ["export", "--model", str(model_folder), *arguments, "-o", str(tmp_path / "out.onnx")]
    )
    assert answer.exit_code == 0, answer.output
    told = facts_of(tmp_path / "out.onnx")["measured"]
    assert f"int8 on 2 images: {told['equal']:.2%} of pixels are equal; {told['milliseconds']:.1f} ms" in answer.stdout
    assert set(SUFFIXES.values()) == {".onnx", ".xml", ".pt2"}
