"""The command `cliptea predict` on files and folders: masks, overlays, areas, and what is said of bad images."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptea.evaluation.figures import palette
from cliptea.serving.images import read_image
from cliptea.serving.predict import areas
from cliptea_pipeline.cli import app


def call(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 60)), ("sub/b.jpg", (90, 30))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_areas_are_pixels_and_shares_the_largest_first():
    mask = np.array([[0, 2, 2], [2, 2, 0]], np.uint8)
    found = areas(mask, ["sky", "grass", "cow"])
    assert list(found) == ["cow", "sky"]
    assert found["cow"] == {"pixels": 4, "share": 4 / 6}


def test_masks_overlays_and_areas_are_written(photos, model_folder, model, tmp_path):
    output = tmp_path / "out"
    answer = call(photos, "--model", model_folder, "-o", output)
    assert answer.exit_code == 0, answer.output
    assert "4 classes; gamma 0.02 for the unseen ones: zebra" in answer.stdout
    files = sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file())
    assert files == ["areas.json", "masks/a.png", "masks/sub/b.png", "overlays/a.jpg", "overlays/sub/b.jpg"]
    told = json.loads((output / "areas.json").read_text())
    assert told["classes"] == ["sky", "grass", "cow", "zebra"]
    for row, name in zip(told["images"], ("a.png", "sub/b.jpg"), strict=True):
        expected = model.mask(read_image(photos / name), model.known())
        with Image.open(output / row["mask"]) as mask:
            assert mask.mode == "P"
            assert (np.array(mask) == expected).all()
            assert mask.getpalette()[: 3 * 255] == palette().ravel().tolist()
        assert (row["height"], row["width"]) == expected.shape
        assert sum(area["pixels"] for area in row["areas"].values()) == expected.size
        with Image.open(output / "overlays" / name.replace(".png", ".jpg")) as overlay:
            assert overlay.width > overlay.height * expected.shape[1] / expected.shape[0]  # the legend


def test_bad_images_get_a_line_and_the_others_are_done(photos, model_folder, tmp_path):
    (photos / "cut.jpg").write_bytes((photos / "sub/b.jpg").read_bytes()[:700])
    (photos / "no.png").write_text("no image")
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out")
    assert answer.exit_code == 1
    lines = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert [name in line for name, line in zip(("cut.jpg", "no.png", "2 of 4"), lines, strict=True)] == [True] * 3
    assert len(json.loads((tmp_path / "out/areas.json").read_text())["images"]) == 2
    assert sorted(file.name for file in (tmp_path / "out/masks").rglob("*.*")) == ["a.png", "b.png"]


def test_what_cannot_be_done_is_one_line_and_writes_nothing(photos, model_folder, tmp_path):
    output = tmp_path / "out"
    for arguments, code, words in (
        (["--model", model_folder, "--classes", "sky,sofa"], 2, "'sofa', and no text tower is at hand"),
        (["--model", tmp_path], 1, "holds no model of this program"),
        (["--model", "models:/x@champion", "--workdir", tmp_path], 1, "there is no "),
    ):
        answer = call(photos, *arguments, "-o", output)
        assert (answer.exit_code, answer.stderr.count("\n")) == (code, 1), answer.output
        assert words in answer.stderr
    assert not output.exists()
