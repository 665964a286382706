"""A bundle segments images where this package is not, and its card and its servers say what is so."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from cliptea.model_address import CHAMPION, predict_command
from cliptea.sealed import seal
from cliptea.segment.segmenter import open_segmenter
from cliptea.serving.classes import text_digests
from cliptea.serving.export import Exported
from cliptea.serving.measured import Measured
from cliptea.serving.model_card import _cell, model_card
from cliptea.serving.parity import Parity
from cliptea.serving.score_file import Measurement
from cliptea_pipeline.cli import app

# Runs a script where only the standard library, NumPy, Pillow and onnxruntime can be imported.
ALONE = """
import runpy, sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"numpy", "PIL", "onnxruntime"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
EQUAL = 0.999  # share of pixels: onnxruntime sums in another order than torch, which decides where two classes tie


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def smooth(seed, size):
    """An image with areas of several classes."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for number, size in enumerate([(64, 96), (63, 95), (130, 61), (33, 200), (301, 211), (7, 5)]):
        Image.fromarray(smooth(number, size)).save(folder / f"{number}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(smooth(7, (50, 80))).save(folder / "sub/turned.jpg", exif=turned)
    return folder


@pytest.fixture(scope="module")
def bundled(model_folder, tmp_path_factory):
    """A bundle of some of the model's classes."""
    folder = tmp_path_factory.mktemp("bundle") / "small"
    answer = call("bundle", "--model", model_folder, "--names", "zebra, sky, cow", "-o", folder)
    assert answer.exit_code == 0, answer.output
    return folder


def agree(bundle, model, names, photos, output):
    """The ids in the masks, which the script in the bundle and predict have in common."""
    command = [sys.executable, "-I", "-c", ALONE, bundle / "segment.py", photos, "-o", output / "alone"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    answer = call("predict", photos, "--model", model, "--classes", names, "-o", output / "ours")
    assert answer.exit_code == 0, answer.output
    ids, files = set(), sorted(file.relative_to(photos) for file in photos.rglob("*.*"))
    for file in files:
        with Image.open(output / "ours/masks" / file.with_suffix(".png")) as mask:
            expected = np.array(mask)
        with Image.open(output / "alone/masks" / file.with_suffix(".png")) as mask:
            found = np.array(mask)
            assert mask.mode == "P"
        assert found.shape == expected.shape
        assert (found == expected).mean() >= EQUAL, file
        with Image.open(output / "alone/overlays" / file.with_suffix(".jpg")) as overlay:
            assert overlay.size == found.shape[::-1]
        ids |= set(np.unique(expected))
    assert len(files) == 7
    return ids


def test_the_script_alone_gives_the_masks_of_predict(bundled, model_folder, photos, tmp_path):
    assert len(agree(bundled, model_folder, "zebra, sky, cow", photos, tmp_path)) > 1  # else everything agrees


def test_so_it_does_with_sliding_windows(model_folder, photos, tmp_path):
    sliding = tmp_path / "sliding"
    shutil.copytree(model_folder, sliding)
    described = json.loads((sliding / "model.json").read_text())
    described["evaluation"] |= {"mode": "slide", "window": 64, "stride": 40}
    (sliding / "model.json").write_text(json.dumps(described))
    assert call("bundle", "--model", sliding, "-o", tmp_path / "bundle").exit_code == 0
    assert len(agree(tmp_path / "bundle", sliding, "sky, grass, cow, zebra", photos, tmp_path)) > 1


def test_a_bad_image_gets_a_line_and_the_others_are_done(bundled, photos, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(photos / "0.png", tmp_path / "in/good.png")
    (tmp_path / "in/bad.png").write_text("no image")
    command = [sys.executable, "-I", "-c", ALONE, bundled / "segment.py", tmp_path / "in", "-o", tmp_path / "out"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert (ended.stderr.count("\n"), "bad.png" in ended.stderr) == (1, True)
    assert ended.stdout == f"wrote masks and overlays of 1 image to {tmp_path / 'out'}\n"
    assert [file.name for file in (tmp_path / "out/masks").iterdir()] == ["good.png"]


def one_bit(network):
    """The network with one bit of a weight flipped, with which it still runs."""
    weight = next(one for one in onnx.load_from_string(network).graph.initializer if len(one.raw_data) > 100)
    place = network.index(weight.raw_data) + 50
    return network[:place] + bytes([network[place] ^ 1]) + network[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.json", lambda data: data[:40]),
        ("model.json", lambda data: b"{}"),
        ("model.onnx", lambda data: data[: len(data) // 2]),
        ("model.onnx", lambda data: None),
        ("model.onnx", one_bit),
        ("model.json", lambda data: data.replace(b'"classes": ["zebra"', b'"classes": ["zebrA"')),
        ("SHA256SUMS", lambda data: None),
    ],
)
def test_a_damaged_bundle_gets_a_line(bundled, photos, tmp_path, name, damage):
    shutil.copytree(bundled, tmp_path / "bundle")
    data = damage((bundled / name).read_bytes())
    assert data != (bundled / name).read_bytes()
    (tmp_path / "bundle" / name).unlink()
    if data is not None:
        (tmp_path / "bundle" / name).write_bytes(data)
    command = [sys.executable, "-I", "-c", ALONE, tmp_path / "bundle/segment.py", photos, "-o", tmp_path / "out"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("error: cannot open model.onnx and model.json in ")
    assert not (tmp_path / "out").exists()


def test_names_cannot_write_to_the_terminal(bundled, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/\x1b[31m\n.png").write_text("no image")
    command = [sys.executable, "-I", "-c", ALONE, bundled / "segment.py", tmp_path / "in", "-o", tmp_path / "out"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (ended.stderr.count("\n"), "\x1b" in ended.stderr, r"\x1b[31m\n" in ended.stderr) == (1, False, True)


def test_the_card_says_what_the_model_knows_and_invents_nothing(bundled):
    assert {file.name for file in bundled.iterdir()} == {
        "README.md",
        "SHA256SUMS",
        "cliptea.json",
        "model.json",
        "model.onnx",
        "requirements.txt",
        "segment.py",
    }
    card = (bundled / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\npipeline_tag: image-segmentation\n")
    assert "| 0 | zebra | unseen: without masks | unknown | #" in card
    assert "| 1 | sky | seen: with masks | unknown | #" in card
    for fact in (
        "training data",
        "commit of cliptea that trained it",
        "licence of the weights that training started from",
        "CLIP that taught it",
        "prompts",
    ):
        assert f"| {fact} | unknown" in card
    assert "| gamma, which is added to the logits of unseen classes | 0.02 |" in card
    assert "| whether training knew the names of unseen classes | no (the inductive setting) |" in card
    assert "## Scores\n\nUnknown." in card
    requirements = (bundled / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in requirements] == ["numpy", "onnxruntime", "pillow"]


@pytest.fixture
def scored(model_folder, tmp_path):
    """A model that knows where it is from, and a file of its scores."""
    folder, file = tmp_path / "known", tmp_path / "scores.json"
    shutil.copytree(model_folder, folder)
    described = json.loads((folder / "model.json").read_text())
    described |= {"dataset": "meadow", "origin": {"git.commit": "c0ffee"}, "licence": "MIT"}
    (folder / "model.json").write_text(json.dumps(described))
    scores = {"pAcc": 0.9, "miou_seen": 0.8, "miou_unseen": 0.5, "hiou": None}
    found = {"model": "models:/m/1", "dataset": "a|b", "images": 12, "scores": scores, "sweep": {}}
    model = open_segmenter(folder)
    found |= {"model_sha256": model.sha256, "evaluation": model.description.evaluation.deciding()}
    found |= {"text_sha256": text_digests(model.known()), "unseen_with_masks": [], "other_settings": {}}
    per_class = {"sky": 0.75, "grass": 0.25, "cow": 0.5, "zebra": None}
    file.write_bytes(seal(Measurement.model_validate(found | {"unseen": ["zebra"], "per_class": per_class})))
    return folder, file


def test_the_card_has_scores_and_origin_if_they_are_known(scored, tmp_path):
    folder, file = scored
    arguments = ("bundle", "--model", folder, "--scores", file, "-o", tmp_path / "out")
    answer = call(*arguments)
    assert answer.exit_code == 0, answer.output
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "| 0 | sky | seen: with masks | 75.0% |" in card
    assert "| 1 | grass | seen: with masks | 25.0% |" in card
    assert "| 3 | zebra | unseen: without masks | no pixels |" in card
    assert "On 12 val images of a\\|b, with a gamma of 0.02: hIoU no pixels, unseen mIoU 50.0%, " in card
    assert "seen mIoU 80.0%, pAcc 90.0%. The unseen classes were zebra. The table above shows the IoU of" in card
    for fact in (
        "| training data | meadow |",
        "| commit of cliptea that trained it | c0ffee |",
        "started from | MIT |",
    ):
        assert fact in card


MEASURED = Measured("random images", 1.0, 0.0, 1.0, 1.0, (64, 64), 1, "a processor")


def card(folder, file, names=None, fixed=None, **changed):
    """The model card of a bundle, with scores in which something is changed."""
    model = open_segmenter(folder)
    found = json.loads(file.read_text())
    for name, value in changed.items():
        found[name] = found[name] | value if isinstance(value, dict) else value
    scores = Measurement.model_validate(found)
    return model_card(model.description, model.known(names), Exported(fixed, Parity(0.0, 1.0), MEASURED), scores, {})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"evaluation": {"scale": [48, 32]}}, "The scale of the evaluation was [48, 32]; here it is [96, 64]."),
        ({"evaluation": {"precision": "bfloat16"}}, "was bfloat16; here it is float32."),
        ({"evaluation": {"divisor": 64}}, "The divisor of the evaluation was 64; here it is 32."),
        (
            {"evaluation": {"mode": "slide", "window": 64, "stride": 40}},
            "The mode of the evaluation was slide; here it is whole. The window of the evaluation was 64.",
        ),
        ({"evaluation": {"gamma": 0.3}}, "Gamma was 0.3 for zebra; here it is 0.02 for zebra."),
        ({"unseen": ["cow"]}, "Gamma was 0.02 for cow; here it is 0.02 for zebra."),
        ({"text_sha256": {"cow": "0" * 64}}, "The text embeddings of cow were different."),
        ({"fixed": (64, 64)}, "Images were not fitted into 64x64, as segment.py does."),
    ],
)
def test_what_was_measured_otherwise_is_said_and_hides_the_iou_of_classes(scored, changed, said):
    assert "| seen: with masks | 75.0% |" in card(*scored)
    assert "| seen: with masks | 75.0% |" in card(*scored, names=["zebra", "sky", "cow", "grass"])  # another order
    text = card(*scored, **changed)
    assert said in text
    assert "So the masks of this folder differ, and their scores are unknown." in text
    assert "| seen: with masks | unknown |" in text
    assert "75.0%" not in text


def test_the_card_names_unseen_classes_that_had_masks(scored):
    assert "training had masks" not in card(*scored)
    text = card(*scored, unseen=["cow", "zebra"], unseen_with_masks=["cow"])
    assert "The unseen classes were cow, zebra. Of these, training had masks of cow." in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("![](https://evil.example/x.png)", r"!\[\](https://evil.example/x.png)"),
        ("[here](https://evil.example)", r"\[here\](https://evil.example)"),
        ("__init__", r"\_\_init\_\_"),
        ("<b>a|b</b>", r"\<b\>a\|b\</b\>"),
        ("traffic_light", "traffic_light"),
    ],
)
def test_names_in_the_card_are_no_markdown(name, shown):
    assert _cell(name) == shown


def test_the_command_of_a_model_can_be_pasted():
    command = predict_command("my model", CHAMPION, None)
    assert shlex.split(command) == ["cliptea", "predict", "PHOTOS", "--model", "models:/my model@champion"]
    home = Path("/my runs/a$b")
    assert shlex.split(predict_command("m", "2", home))[3:] == ["--model", "models:/m/2", "--workdir", str(home)]


def test_scores_of_more_classes_are_not_shown_as_those_of_the_bundle(scored, tmp_path):
    folder, file = scored
    answer = call("bundle", "--model", folder, "--scores", file, "--names", "zebra, sky", "-o", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    card = (tmp_path / "out/README.md").read_text()
    assert "| 1 | sky | seen: with masks | unknown |" in card
    assert "seen mIoU 80.0%" in card
    assert "measured with other classes than those above: each pixel got one of sky, grass, cow, zebra." in card


def test_scores_of_another_model_and_folders_of_others_are_refused(scored, model_folder, tmp_path):
    _, file = scored
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    (tmp_path / "empty.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for arguments, code, words in (
        (
            ["--scores", file, "-o", tmp_path / "out"],
            2,
            "the scores belong to another model, whose address was",
        ),
        (["--scores", tmp_path / "empty.json", "-o", tmp_path / "out"], 2, "empty.json is damaged: it holds no sha256"),
        (["-o", tmp_path / "mine"], 1, "holds files that are not from cliptea"),
        (["-o", file], 2, "is a file; expected a folder"),
        (["--size", "65x64", "-o", tmp_path / "out"], 2, "--size 65x64 does not fit the model"),
        (["--names", "sofa", "-o", tmp_path / "out"], 2, "its text tower is not available"),
        (
            ["--names", " ", "-o", tmp_path / "out"],
            2,
            "0 class names are given; expected 1 to 255, for example --names",
        ),
        (["--names", "[a", "-o", tmp_path / "out"], 2, "cannot read --names"),
    ):
        answer = call("bundle", "--model", model_folder, *arguments)
        assert answer.exit_code == code, answer.output
        assert (words in answer.stderr, answer.stderr.count("\n")) == (True, 1), answer.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "65x64"],
        ["--size", "64"],
        ["--size", "0x64"],
        ["--size", "320000x320000"],
        ["--size", "1e23x64"],
        ["--scores", "none"],
    ],
)
def test_a_wrong_size_and_wrong_scores_are_told_before_the_model_is_loaded(
    arguments, model_folder, tmp_path, monkeypatch
):
    def load(*_):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("cliptea.segment.segmenter.open_segmenter", load)
    monkeypatch.chdir(tmp_path)
    commands = [("bundle", "out")] if arguments[0] == "--scores" else [("bundle", "out"), ("export", "out.onnx")]
    for command, output in commands:
        answer = call(command, "--model", model_folder, *arguments, "-o", output)
        assert (answer.exit_code, answer.stderr.count("\n")) == (2, 1), answer.stderr
        assert arguments[1] in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_is_told_without_torch(model_folder):
    code = (
        "import sys; from cliptea_pipeline.cli import app\n"
        f"try: app(['bundle', '--model', {str(model_folder)!r}, '--size', '65x64', '-o', 'out'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
    assert "--size 65x64 does not fit the model" in ended.stderr


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """Bundles for both servers, made one after the other in one folder and copied."""
    folder = tmp_path_factory.mktemp("served")
    for server in ("triton", "kserve"):
        answer = call("bundle", "--model", model_folder, "--serving", server, "-o", folder / "bundle")
        assert answer.exit_code == 0, answer.output
        shutil.copytree(folder / "bundle", folder / server)
    return folder


TRITON = """
import sys, types
import numpy as np
tensors = types.ModuleType("triton_python_backend_utils")
class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array
    def as_numpy(self):
        return self.array
tensors.Tensor = Tensor
tensors.InferenceResponse = lambda output_tensors, error=None: error or output_tensors
tensors.TritonError = str
tensors.get_input_tensor_by_name = lambda request, name: request[name]
sys.modules["triton_python_backend_utils"] = tensors
import importlib.util
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.TritonPythonModel()
model.initialize({})
images = np.load(sys.argv[2])
given = (images, images[:0], np.zeros((65, 1, 1, 3), np.uint8))
(masks,), *errors = model.execute([{"images": Tensor("images", one)} for one in given])
assert [error.split("; ")[1] for error in errors] == [
    "expected at least one image with pixels", "expected at most 64 in one request"
]
assert masks.name == "masks"
np.save(sys.argv[3], masks.as_numpy())
"""


def test_tritons_backend_gives_the_masks_of_predict(served, model_folder, tmp_path):
    """With a stand-in for the module that only Triton has: its Python backend passes NumPy arrays in and out."""
    images = np.stack([smooth(number, (50, 70)) for number in (1, 2)])
    np.save(tmp_path / "images.npy", images)
    files = [served / "triton/1/model.py", tmp_path / "images.npy", tmp_path / "masks.npy"]
    subprocess.run([sys.executable, "-I", "-c", TRITON, *map(str, files)], check=True)
    masks, model = np.load(tmp_path / "masks.npy"), open_segmenter(model_folder)
    assert masks.dtype == np.uint8
    for image, mask in zip(images, masks, strict=True):
        assert (mask == model.mask(image, model.known())).mean() >= EQUAL
    config = (served / "triton/config.pbtxt").read_text()
    for line in ('backend: "python"', 'name: "images" data_type: TYPE_UINT8', 'name: "masks" data_type: TYPE_UINT8'):
        assert line in config


def test_the_files_of_one_server_do_not_stay_for_another(served):
    assert not (served / "kserve/config.pbtxt").exists()
    assert not (served / "kserve/1/model.py").exists()
    found = yaml.safe_load((served / "kserve/inferenceservice.yaml").read_text())
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = found["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["securityContext"]["runAsNonRoot"] is True
    assert "serve_kserve.py" in (served / "kserve/Dockerfile").read_text()


KSERVE = """
import asyncio, sys, types
from pathlib import Path
import numpy as np
kserve, errors = types.ModuleType("kserve"), types.ModuleType("kserve.errors")
class InvalidInput(ValueError):
    pass
class Served:
    def __init__(self, name):
        self.name = name
class Output:
    def __init__(self, name, shape, datatype):
        self.name, self.shape, self.datatype = name, shape, datatype
    def set_data_from_numpy(self, array, binary_data):
        self.array = array
kserve.InferRequest, kserve.ModelServer = types.SimpleNamespace, None
kserve.InferOutput, kserve.Model, errors.InvalidInput = Output, Served, InvalidInput
kserve.InferResponse = lambda id, name, outputs: outputs
sys.modules |= {"kserve": kserve, "kserve.errors": errors}
sys.path.insert(0, sys.argv[1])
import serve_kserve
model = serve_kserve.Segmentation()
def tensor(array, name="images"):
    def as_numpy():
        if isinstance(array, Exception):
            raise array
        return array
    return types.SimpleNamespace(name=name, as_numpy=as_numpy)
def ask(*tensors):
    return asyncio.run(model.predict(types.SimpleNamespace(id="7", inputs=list(tensors))))
images = np.zeros((1, 40, 50, 3), np.uint8)
for wrong in (
    [], [tensor(images), tensor(images)], [tensor(images, "image")], [tensor(images[0])], [tensor(images[..., :2])],
    [tensor(images[:0])], [tensor(images[:, :0])], [tensor(images.astype(np.float32))],
    [tensor(ValueError("no bytes"))], [tensor(np.zeros((65, 1, 1, 3), np.uint8))],
):
    try:
        ask(*wrong)
    except InvalidInput as error:
        print(error)
try:
    asyncio.run(model.predict({"instances": [1]}))
except InvalidInput as error:
    print(error)
(output,) = ask(tensor(images))
assert (output.name, output.shape, output.datatype, output.array.dtype) == ("masks", [1, 40, 50], "UINT8", np.uint8)
"""


def test_kserve_refuses_each_odd_request_in_a_line(served):
    """With a stand-in for KServe's package. The test below uses the package itself where it is installed."""
    command = [sys.executable, "-I", "-c", KSERVE, str(served / "kserve")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(ended.stdout.splitlines()) == 11
    assert all("; expected" in line or "cannot read the tensor" in line for line in ended.stdout.splitlines())


@contextmanager
def kserve(folder):
    """The address of KServe's model server, which runs the script in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, folder / "serve_kserve.py", "--http_port", port, "--enable_grpc", "false"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(1000):
                assert server.poll() is None, "the server has ended"
                try:
                    with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=10):
                        break
                except urllib.error.URLError:
                    time.sleep(0.3)
            yield address
        finally:
            server.terminate()


def infer(address, images, **more):
    tensor = {"name": "images", "shape": images.shape, "datatype": "UINT8", "data": images.ravel().tolist()}
    request = urllib.request.Request(
        f"{address}/v2/models/cliptea/infer",
        json.dumps({"inputs": [tensor], **more}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.loads(answer.read())


@pytest.mark.skipif(find_spec("kserve") is None, reason="needs KServe's server: pip install kserve")
def test_kserve_answers_a_request_of_its_open_protocol_with_the_masks_of_predict(served, model_folder):
    images, model = np.stack([smooth(number, (50, 70)) for number in (1, 2)]), open_segmenter(model_folder)
    with kserve(served / "kserve") as address:
        answer, unnamed = infer(address, images, id="7"), infer(address, images)
        (output,) = answer["outputs"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            infer(address, images[0])
    assert refused.value.code == 400
    assert answer["id"] == "7"
    assert unnamed["id"]  # which the server makes
    assert unnamed["outputs"] == answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("masks", "UINT8", [2, 50, 70])
    masks = np.array(output["data"], np.uint8).reshape(2, 50, 70)
    for image, mask in zip(images, masks, strict=True):
        assert (mask == model.mask(image, model.known())).mean() >= EQUAL
