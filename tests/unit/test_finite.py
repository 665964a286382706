"""NaN and infinity are refused wherever numbers are loaded, computed, compared or kept, in one line with the place."""

import json
import math
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from naive_logits import class_logits
from plain_student import Plain
from pydantic import ValidationError

from cliptea.config import EvaluationConfig
from cliptea.errors import NotFinite, StorageError, named
from cliptea.evaluation.results import Scores
from cliptea.files import SUMS, sums
from cliptea.finite import named_tensors, not_finite, require_finite
from cliptea.manifest import Manifest, put_object
from cliptea.report import figures
from cliptea.segment.segmenter import open_segmenter
from cliptea.serving.parity import check_onnx
from cliptea.storage import FileStore
from cliptea.teacher.text import load_text
from cliptea.tracking.champions import Score, decide, replay

BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture
def folder(model_folder, tmp_path):
    """A model of its own to spoil."""
    return shutil.copytree(model_folder, tmp_path / "model")


def spoil(file, name, value):
    tensors = safetensors.torch.load_file(file)
    tensors[name].view(-1)[-1] = value
    safetensors.torch.save_file(tensors, file)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_bad_number_among_many_is_found_by_name(value, dtype):
    tensors = {"a": torch.ones(3, dtype=dtype), "b": torch.ones(2, 50, dtype=dtype), "n": torch.ones(3).long()}
    assert not_finite(tensors) == ""
    tensors["b"][1, 17] = value
    assert not_finite(tensors) == "b"
    with pytest.raises(NotFinite, match=r"^b of the model holds NaN or infinity; expected finite numbers only; mend$"):
        require_finite(tensors, "the model", "mend")
    with pytest.raises(NotFinite, match=r"^table3/full: b of the model holds"), named("table3/full"):
        require_finite(tensors, "the model")


def test_nothing_is_finite():
    assert not_finite({}) == not_finite({"empty": torch.empty(0), "n": torch.ones(2).long()}) == ""


def test_tensors_of_a_state_have_their_places_as_names():
    state = {"student": {"w": torch.ones(1)}, "optimiser": {"state": {0: {"m": torch.zeros(1)}}, "lr": [0.1]}}
    assert [name for name, _ in named_tensors(state)] == ["student.w", "optimiser.state.0.m"]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("file", ["model.safetensors", "text.safetensors"])
def test_a_model_that_is_not_finite_is_not_loaded(folder, file, value):
    tensors = safetensors.torch.load_file(folder / file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    spoil(folder / file, name, value)
    with pytest.raises(NotFinite, match=str(folder)) as caught:
        open_segmenter(folder)
    assert "holds NaN or infinity" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"), [("model.safetensors", "encoder.stem.0.1.running_mean"), ("text.safetensors", "text")]
)
def test_a_number_that_is_too_large_for_float32_is_not_loaded(folder, file, name):
    tensors = safetensors.torch.load_file(folder / file)
    safetensors.torch.save_file(tensors | {name: tensors[name].double()}, folder / file)
    assert open_segmenter(folder).text_ND.dtype == torch.float32
    spoil(folder / file, name, -1e300)
    with pytest.raises(NotFinite, match="holds NaN or infinity"):
        open_segmenter(folder)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "text.safetensors"])
def test_a_model_with_one_wrong_bit_is_not_loaded(folder, file):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / SUMS).write_bytes(sums(files))
    open_segmenter(folder)
    wrong = bytearray(files[file])
    wrong[-9] ^= 1
    (folder / file).write_bytes(wrong)
    with pytest.raises(StorageError, match=f"damaged; expected files that match its {SUMS}"):
        open_segmenter(folder)


def test_the_sums_are_those_of_sha256sum(tmp_path):
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", from FIPS 180-2
    assert sums({"b": b"abc", "a": b"abc"}) == f"{known}  a\n{known}  b\n".encode()


class Overflowing(Plain):
    """Finite weights whose product is not."""

    def __init__(self, dim):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(3e38))
        self.dim = dim

    def forward(self, images):
        return images[:, :1, ::4, ::4].abs().add(1).repeat(1, self.dim, 1, 1) * self.w * 10


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_logits_that_overflow_give_no_mask(mode):
    image = np.full((64, 64, 3), 200, np.uint8)
    settings = EvaluationConfig(mode=mode, scale=(64, 64))
    with pytest.raises(NotFinite, match="a logit of an image"):
        class_logits(Overflowing(4), image, torch.nn.functional.normalize(torch.rand(3, 4), dim=1), settings)


def test_parity_with_nan_on_one_side_is_none(monkeypatch):
    import onnxruntime

    class Session:
        def __init__(self, *given, **options): ...

        def run(self, names, inputs):
            return [np.full((1, 2, 4, 4), math.nan, np.float32)]

    class Same(torch.nn.Module):
        def forward(self, images, embeddings):
            return torch.zeros(1, 2, 4, 4)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(NotFinite, match="ONNX"):
        check_onnx(b"", Same(), 3, [(1, 4, 4, 2)])


@pytest.mark.parametrize("value", BAD)
def test_text_features_that_are_not_finite_are_not_loaded(tmp_path, value):
    store = FileStore(tmp_path)
    data = safetensors.torch.save({"text": torch.tensor([[1.0, 0.0], [0.0, value]])})
    item = put_object(store, "text/f/text.safetensors", data)
    with pytest.raises(NotFinite, match=r"text/f/text\.safetensors"):
        load_text(store, Manifest(kind="text", fingerprint="f", objects={"text.safetensors": item}))


@pytest.mark.parametrize("value", BAD)
def test_no_score_is_nan_or_infinite(value):
    with pytest.raises(ValidationError, match="finite"):
        Scores(pAcc=value, miou_seen=None, miou_unseen=None, hiou=None)


@pytest.mark.parametrize("value", BAD)
def test_a_score_that_is_no_number_is_never_champion_and_never_defends(value):
    bad, good = Score(value, "set", 0.0), Score(0.1, "set", 0.0)
    assert not decide(bad, None).promoted
    assert not decide(bad, good).promoted
    assert replay({1: bad, 2: good, 3: bad}, []).champions == [2]


@pytest.mark.parametrize("value", BAD)
def test_heat_is_never_drawn_from_nan(value):
    weights = np.array([[1.0, value]])
    with pytest.raises(NotFinite, match="attention"):
        figures.heat_range([weights])
    with pytest.raises(NotFinite, match="attention"):
        figures.heat_overlay(np.zeros((8, 8, 3), np.uint8), weights)


def test_a_description_holds_finite_numbers_only(folder):
    described = json.loads((folder / "model.json").read_text())
    described["evaluation"]["gamma"] = math.nan
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(StorageError, match="NaN is not finite"):
        open_segmenter(folder)
