"""Every kind of image that people have becomes upright 8-bit RGB, or one clear line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptea.errors import DataError
from cliptea.serving.photos import find_images, read_image
from cliptea.storage.marks import claim

RAMP = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)


def saved(tmp_path, image, name, **how):
    path = tmp_path / name
    image.save(path, **how)
    return read_image(path)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RAMP), RAMP),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), RAMP),
        (Image.fromarray(RAMP).convert("P"), RAMP),
        (Image.fromarray(RAMP > 100), (RAMP > 100) * 255),
        (Image.merge("LA", (Image.fromarray(RAMP), Image.new("L", (20, 12), 255))), RAMP),
        (Image.merge("RGBA", [Image.fromarray(RAMP)] * 3 + [Image.new("L", (20, 12), 0)]), RAMP * 0 + 255),
        (Image.merge("RGBA", [Image.fromarray(RAMP)] * 3 + [Image.new("L", (20, 12), 255)]), RAMP),
    ],
)
def test_pixel_modes_of_png(tmp_path, image, expected):
    rgb = saved(tmp_path, image, "a.png")
    assert rgb.dtype == np.uint8
    assert (rgb == np.asarray(expected, np.uint8)[..., None]).all()


def test_transparent_palette_lies_on_white(tmp_path):
    image = Image.fromarray((RAMP > 100).astype(np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    rgb = saved(tmp_path, image, "a.png", transparency=0)
    assert (rgb[0, 0] == 255).all()
    assert rgb[-1, -1].tolist() == [40, 50, 60]


def test_cmyk_float_and_animation(tmp_path):
    cmyk = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg")
    assert np.abs(cmyk.astype(int) - [255, 0, 0]).max() < 6
    floats = saved(tmp_path, Image.fromarray(RAMP.astype(np.float32) / 1000 - 5), "a.tiff")
    assert (floats.min(), floats.max()) == (0, 255)
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    first = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert first.shape == (4, 5, 3)
    assert first[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (6, 3), (3, 2), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    image = np.zeros((6, 10, 3), np.uint8)
    image[:3, :5] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = saved(tmp_path, Image.fromarray(image), "a.png", exif=exif)
    assert (rgb == np.rot90(image, turned)).all()


def test_bad_images_are_one_line_each(tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "text.png", "empty.png"):
        with pytest.raises(DataError, match=f"cannot decode the image .*{name}.*expected a complete JPEG"):
            read_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="decompression bomb"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path)


def test_results_of_different_images_have_different_names(tmp_path):
    for name in ("one/a.jpg", "one/a.png", "one/a.PNG", "one/sub/a.jpg", "one/notes.txt", "two/a.jpg", "one/out/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    given = [tmp_path / "one", tmp_path / "two" / "a.jpg", tmp_path / "one/a.jpg"]
    sources = find_images(given, tmp_path / "one/out").sources
    names = {str(source.path.relative_to(tmp_path)): source.name for source in sources}
    assert names == {
        "one/a.PNG": "a",
        "one/a.jpg": "a_jpg",
        "one/a.png": "a_png",
        "one/sub/a.jpg": str(Path("sub/a")),
        "two/a.jpg": "a_jpg-2",
    }


def test_an_empty_folder_and_a_wrong_path_are_said(tmp_path, capsys):
    with pytest.raises(DataError, match=r"contains no images; expected files of type \.bmp, \.gif"):
        find_images([tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match=r"the file or folder .*nowhere does not exist"):
        find_images([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(
        DataError, match=r"^gs://b/x is not an address of images; expected a path .* or s3://BUCKET/FOLDER$"
    ):
        find_images(["gs://b/x"], tmp_path / "out")
    (tmp_path / "a.heic").touch()
    with pytest.raises(DataError, match="contains no images"):
        find_images([tmp_path], tmp_path / "out")
    assert "1 left out (not an image by its suffix): " in capsys.readouterr().err


def test_what_is_no_file_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    said = {}
    for source in find_images([tmp_path], tmp_path / "out").sources:
        with pytest.raises(DataError) as caught:
            read_image(source.path)
        said[source.path.name] = str(caught.value)
    reasons = {"pipe": "a named pipe", "zero": "a device", "loop": "a circular link", "gone": "a broken link"}
    assert said.keys() == {f"{name}.png" for name in (*reasons, "sparse")}
    assert all(reason in said[f"{name}.png"] for name, reason in reasons.items())
    assert "bytes; expected a photo of at most" in said["sparse.png"]


def test_what_a_folder_leaves_out_is_told(tmp_path, capsys):
    for name in ("a.png", "notes.txt", "b.heic", "._a.png", ".cache/c.png", "sub/d.png", "out/masks/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    found = find_images([tmp_path], tmp_path / "out")
    assert [source.name for source in found.sources] == ["a", "sub/d"]
    named = {why: {Path(path).name for path in left.first} for why, left in found.left_out.items()}
    assert named == {
        "not an image by its suffix": {"notes.txt", "b.heic"},
        "hidden": {"._a.png", ".cache"},
        "a link to a folder": {"again"},
    }
    told = capsys.readouterr().err
    assert "2 left out (not an image by its suffix): " in told
    assert "2 left out (hidden): " in told
    assert "1 left out (a link to a folder): " in told
    assert all(name in told for name in ("notes.txt", "b.heic", "._a.png", ".cache", "again"))
    assert "masks" not in told


def test_results_of_earlier_predictions_are_told_and_left_out(tmp_path):
    claim(tmp_path / "photos/earlier", "folder of predictions", "")
    names = "a.png", "earlier/b.png", "earlier/masks/a.png", "earlier/overlays/sub/a.jpg", "masks/c.png"
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    found = find_images([tmp_path / "photos"], tmp_path / "out")
    assert [source.name for source in found.sources] == ["a", "earlier/b", "masks/c"]
    assert found.left_out["the result of an earlier prediction"].number == 2
    inside = find_images([tmp_path / "photos/earlier"], tmp_path / "out")
    assert [source.name for source in inside.sources] == ["b"]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_this_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"the name of an image is empty; .*use \. for this folder"):
        find_images([name], "out")


def test_a_folder_that_cannot_be_read_is_an_error_and_the_others_are_found(tmp_path, closed):
    for name in ("a.png", "shut/b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    closed("shut")
    found = find_images([tmp_path], tmp_path / "out").sources
    assert [source.path.relative_to(tmp_path) for source in found] == [Path("a.png"), Path("sub/c.png"), Path("shut")]
    with pytest.raises(DataError, match=r"cannot read .*/shut \(Permission denied\)$"):
        read_image(found[-1].path)
    with pytest.raises(DataError, match=r"cannot read .*/shut \(Permission denied\)$"):
        find_images([tmp_path, tmp_path / "shut"], tmp_path / "out")
