"""`cliptea evaluate` against scores that NumPy computes from the masks of `predict`."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptea.data.sample import decode_image
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
    same = ("--set", "evaluation.scale=[96, 64]")  # as of the model, because the preset has another one
    return CliRunner().invoke(app, ["evaluate", "--preset", "folder", *same, *map(str, arguments)])


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


@pytest.mark.parametrize(("settings", "gamma"), [((), 0.02), (("--set", "evaluation.gamma=0.3"), 0.3)])
def test_scores_are_those_of_the_masks(data, model, model_folder, tmp_path, settings, gamma):
    file = tmp_path / "scores.json"
    answer = call("--model", model_folder, "--set", f"data.root={data}", *settings, "-o", file)
    assert answer.exit_code == 0, answer.output
    found = json.loads(file.read_text())
    assert (found["images"], found["gamma"]) == (3, gamma)
    assert found["per_class"] == pytest.approx(reference(model, data, gamma))
    unseen = np.mean([found["per_class"][name] for name in found["unseen"]])
    assert found["scores"]["miou_unseen"] == pytest.approx(unseen)
    assert f"{found['scores']['hiou']:.1%}" in answer.output


def test_what_cannot_be_scored_is_one_line(data, model_folder, tmp_path):
    answer = call("--model", model_folder, "--set", f"data.root={data}", "-o", tmp_path / "scores.txt")
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert "scores.txt" in answer.output
    (data / "labels/val/1.png").unlink()
    answer = call("--model", model_folder, "--set", f"data.root={data}", "-o", tmp_path / "scores.json")
    assert answer.exit_code == 1
    assert "labels/val/1.png" in answer.output
    assert not (tmp_path / "scores.json").exists()
