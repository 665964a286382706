"""`cliptea evaluate` against scores that NumPy computes from the masks of `predict`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptea.data.catalogue import Catalogue
from cliptea.data.sample import Sample, decode_image, encode_png
from cliptea.errors import ConfigError, DataError
from cliptea.serving.classes import text_digests
from cliptea.serving.score_file import are_scores, read_scores
from cliptea.serving.scores import evaluate, other_settings, settings_of
from cliptea.settings import given_settings, presets
from cliptea_pipeline.cli import app


@pytest.fixture
def data(tmp_path, model):
    """A folder with the classes of the model, in another order and without one of them."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    classes = list(reversed(model.description.classes[1:]))
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"images/{split}/{number}.png")
            labels = rng.integers(0, len(classes) + 1, (64, 96), dtype=np.uint8)
            labels[labels == len(classes)] = 255
            Image.fromarray(labels).save(root / f"labels/{split}/{number}.png")
    unseen = [name for name in classes if name in model.description.unseen]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "unseen": unseen}))
    return root


def call(*arguments):
    return CliRunner().invoke(app, ["evaluate", "--preset", "folder", *map(str, arguments)])


def reference(model, root, gamma):
    """IoU of each class, pixel by pixel."""
    described = json.loads((root / "classes.json").read_text())
    classes = model.known(described["classes"])
    raised = [gamma if name in described["unseen"] else 0.0 for name in classes.names]
    classes = classes._replace(gamma_N=classes.gamma_N * 0 + np.array(raised, dtype=np.float32))
    inside, union = np.zeros(len(raised)), np.zeros(len(raised))
    for file in sorted((root / "images/val").iterdir()):
        mask = model.mask(decode_image(file.read_bytes(), file.name), classes)
        truth = np.array(Image.open(root / "labels/val" / file.name))
        for number in range(len(raised)):
            mine, theirs = (mask == number) & (truth != 255), truth == number
            inside[number] += (mine & theirs).sum()
            union[number] += (mine | theirs).sum()
    return dict(zip(classes.names, (inside / union).tolist(), strict=True))


def test_an_address_that_is_not_utf_8_comes_back(data, model_folder, tmp_path):
    odd = shutil.copytree(model_folder, tmp_path / "m\udcff")
    answer = call("--model", odd, "--set", f"data.root={data}", "-o", tmp_path / "scores.json")
    assert answer.exit_code == 0, answer.output
    assert json.loads((tmp_path / "scores.json").read_text("utf-8"))["model"] == str(odd)


@pytest.mark.parametrize(("settings", "gamma"), [((), 0.02), (("--set", "evaluation.gamma=0.3"), 0.3)])
def test_scores_are_those_of_the_masks(data, model, model_folder, tmp_path, settings, gamma):
    file = tmp_path / "scores.json"
    answer = call("--model", model_folder, "--set", f"data.root={data}", *settings, "-o", file)
    assert answer.exit_code == 0, answer.output
    found = json.loads(file.read_text())
    assert found["images"] == 3
    own = {"scale": [96, 64], "divisor": 32, "mode": "whole", "precision": "float32"}
    assert found["evaluation"] == own | {"gamma": gamma}  # and not the scale of the preset
    assert found["other_settings"] == ({} if gamma == 0.02 else {"gamma": {"used": 0.3, "own": 0.02}})
    assert ("evaluation.gamma is 0.3; the model's own is 0.02" in answer.output) == (gamma == 0.3)
    assert "evaluation.scale" not in answer.output
    assert are_scores(file)  # so a second call may replace it
    read = read_scores(file)
    known = text_digests(model.known())
    assert (read.evaluation.scale, read.evaluation.gamma) == ((96, 64), gamma)
    assert read.text_sha256 == {name: known[name] for name in found["per_class"]}
    assert found["per_class"] == pytest.approx(reference(model, data, gamma))
    unseen = np.mean([found["per_class"][name] for name in found["unseen"]])
    assert found["scores"]["miou_unseen"] == pytest.approx(unseen)
    assert f"{found['scores']['hiou']:.1%}" in answer.output
    file.write_text(file.read_text().replace('"images": 3', '"images": 4'))
    with pytest.raises(ConfigError, match=r"does not match its sha256; .*; delete it and run cliptea evaluate"):
        read_scores(file)
    assert not are_scores(file)


def test_what_cannot_be_scored_is_one_line(data, model_folder, tmp_path):
    answer = call("--model", model_folder, "--set", f"data.root={data}", "-o", tmp_path / "scores.txt")
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert "scores.txt" in answer.output
    (data / "labels/val/1.png").unlink()
    answer = call("--model", model_folder, "--set", f"data.root={data}", "-o", tmp_path / "scores.json")
    assert answer.exit_code == 1
    assert "labels/val/1.png" in answer.output
    assert not (tmp_path / "scores.json").exists()
    (tmp_path / "classes.json").write_text('{"classes": ["cat"]}')
    answer = call("--model", "models:/none/1", "--set", f"data.root={data}", "-o", tmp_path / "classes.json")
    assert (answer.exit_code, "classes.json exists and is not a file of scores" in answer.output) == (2, True)
    assert (tmp_path / "classes.json").read_text() == '{"classes": ["cat"]}'


def test_a_file_of_the_users_own_changes_settings_and_the_preset_in_it_does_not(model, model_folder, tmp_path):
    (tmp_path / "own.yaml").write_text("preset: folder\nevaluation: {mode: slide, window: 64, stride: 32}\n")
    given = given_settings("own.yaml", ["evaluation.batch_size=3"], (tmp_path / "own.yaml").read_text())
    used = settings_of(model, given)
    assert (used.scale, used.mode, used.window, used.batch_size) == ((96, 64), "slide", 64, 3)
    assert other_settings(used, model.description.evaluation) == {
        "mode": {"used": "slide", "own": "whole"},
        "window": {"used": 64, "own": None},
        "stride": {"used": 32, "own": None},
    }
    with pytest.raises(ConfigError, match=r"stride is 32 with windows of 16: expected no gap"):
        settings_of(model, {"evaluation": {"window": 16, "stride": 32}})


@pytest.mark.parametrize("preset", presets())
def test_no_preset_changes_the_settings_of_a_model(model, preset):
    assert other_settings(settings_of(model, given_settings(preset, [])), model.description.evaluation) == {}


def test_what_is_left_out_and_unseen_classes_that_had_masks_are_told(data, model_folder, tmp_path):
    described = json.loads((data / "classes.json").read_text())
    (data / "classes.json").write_text(json.dumps(described | {"unseen": ["zebra", "cow"]}))
    (data / "images/val/more").mkdir()
    (data / "images/val/note.txt").touch()
    file = tmp_path / "scores.json"
    answer = call("--model", model_folder, "--set", f"data.root={data}", "-o", file)
    assert answer.exit_code == 0, answer.output
    assert "warning: 1 left out of the data (sub-folders are not searched): images/val/more" in answer.output
    assert "images/val/note.txt" in answer.output
    assert "warning: the data set calls cow unseen, but the model had masks of this class in training" in answer.output
    written = json.loads(file.read_text())
    assert written["unseen_with_masks"] == ["cow"]
    assert written["left_out"]["sub-folders are not searched"] == {"number": 1, "first": ["images/val/more"]}
    assert [left["number"] for left in written["left_out"].values()] == [1, 1]


def test_labels_of_another_size_from_a_data_set_of_ones_own_are_refused(model):
    class Own:
        catalogue = Catalogue(classes=model.description.classes, unseen=["zebra"])

        def read(self, split, name):
            return Sample(encode_png(np.zeros((8, 9, 3), np.uint8)), "png", np.zeros((9, 8), np.uint8))

    with pytest.raises(DataError, match=r"gives labels of the form uint8 \(9, 8\) for the image a"):
        evaluate(model, Own(), ["a"], model.known(), model.description.evaluation, "own")
