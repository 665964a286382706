"""The script of a bundle reads, fits, cuts and resizes as this package and torch do, and needs neither."""

import ast
import io
import json
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from cliptea import addresses
from cliptea.config import EvaluationConfig
from cliptea.data import sample
from cliptea.data.sample import decode_image
from cliptea.errors import DataError
from cliptea.segment.inference import padded_size
from cliptea.serving import standalone
from cliptea.serving.photos import find_images


def test_it_imports_numpy_pillow_and_onnxruntime_alone():
    with open(standalone.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    found = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [one.name for one in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert found - sys.stdlib_module_names == {"numpy", "PIL", "onnxruntime"}


def test_it_looks_for_the_same_files_as_predict():
    assert standalone.SUFFIXES == sample.SUFFIXES


def test_it_names_the_outputs_as_predict_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in (
        "in/a.jpg", "in/a.png", "in/a_png.gif", "in/sub/a.png", "in/sub.x/a.b.png", "in/.hidden/a.png", "in/.a.png",
        "in/out/masks/a.png", "in/notes.txt", "b/a.jpg", "b/a.png",
    ):  # fmt: skip
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    given = [Path("in"), Path("b/a.png"), Path("b"), Path("in/a.jpg")]
    found = standalone._find(given, Path("in/out").resolve())
    assert list(found.items()) == [(name, path) for path, name in find_images(given, leave_out="in/out").sources]
    assert {name: str(path) for name, path in found.items()} == {
        "a": "in/a.jpg",
        "a_png": "in/a.png",
        "a_png_gif": "in/a_png.gif",
        "sub/a": "in/sub/a.png",
        "sub.x/a.b": "in/sub.x/a.b.png",
        "a_png-2": "b/a.png",
        "a_jpg": "b/a.jpg",
    }


def test_paths_without_images_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, words in (
        (["none"], "error: the file or folder none does not exist"),
        (["empty"], "error: the folder empty contains no images; expected .bmp"),
        (["file", "-o", "file"], "error: -o file is a file; expected a folder"),
        (["file", "-o", "s3://bucket/out"], "error: -o 's3://bucket/out' is not a path on this machine"),
        (["file", "-o", ""], "error: -o '' is not a path on this machine"),
        (
            ["file", "-o", "~nobody-here/out"],
            "error: -o '~nobody-here/out' begins with ~ and the name of a user who does not exist",
        ),
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["segment.py", *arguments])
        with pytest.raises(SystemExit, match=words) as ended:
            standalone.main()
        assert "\n" not in str(ended.value.code)
    assert capsys.readouterr().out == ""


def test_results_only_go_to_a_folder_of_their_own(tmp_path):
    for name in ("new/folder", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        standalone._claim(tmp_path / name, ["cat", "dog"])
        standalone._claim(tmp_path / name, ["cat", "dog"])
        assert json.loads((tmp_path / name / "classes.json").read_text()) == ["cat", "dog"]
    (tmp_path / "labels/masks").mkdir(parents=True)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes/classes.json").write_bytes(b"\xff")
    (tmp_path / "file").touch()
    for name, words in (
        ("bytes", "holds a classes.json that is not from this script; choose another folder"),
        ("labels", "holds other files; expected a new or an empty folder"),
        ("empty", "holds results with other classes"),
        ("file/below", "cannot write to -o .*Not a directory"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{words}") as ended:
            standalone._claim(tmp_path / name, ["cat", "cow"])
        assert "\n" not in str(ended.value.code)
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["masks"]


def test_a_result_replaces_a_link_and_not_its_target(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "mask.png").symlink_to(tmp_path / "victim")
    standalone._save(Image.new("L", (2, 2)), tmp_path / "mask.png", "PNG")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "mask.png").is_symlink()


def test_addresses_are_refused_as_by_the_commands():
    assert addresses.URI.pattern == standalone.URI


def test_what_it_leaves_out_is_counted(tmp_path, capsys):
    for name in ("a.png", "b.txt", "c.heic", ".d.png", "sub/e.png", "sub/f.md", "out/classes.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")  # told later, as every image that cannot be read
    assert list(standalone._find([tmp_path], tmp_path / "out")) == ["a", "loop", "sub/e"]
    told = capsys.readouterr().err.splitlines()
    assert sorted(told) == [
        "1 left out (a link to a folder)",
        "1 left out (hidden)",
        "3 left out (not an image by its suffix)",
    ]


def test_a_folder_that_cannot_be_read_is_a_line_and_the_others_are_done(tmp_path, monkeypatch, capsys, closed):
    for name in ("in/a.png", "in/shut/b.png", "shut/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    class Model:
        facts = MappingProxyType({"classes": ["sky"], "colours": [[0, 0, 0]]})

        def mask(self, image_HW3):
            return np.zeros(image_HW3.shape[:2], np.uint8)

    monkeypatch.setattr(standalone, "Model", Model)
    monkeypatch.chdir(tmp_path)
    closed("shut")
    monkeypatch.setattr(sys, "argv", ["segment.py", "in", "-o", "out"])
    assert standalone.main() == 1
    said = capsys.readouterr()
    assert said.out == "wrote masks and overlays of 1 image to out\n"
    assert said.err.startswith("error: cannot segment in/shut ([Errno 13] Permission denied")
    assert said.err.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["segment.py", "in", "shut", "-o", "out"])
    with pytest.raises(SystemExit, match=r"^error: cannot read shut \(Permission denied\)$"):
        standalone.main()


def kinds():
    """Encoded images of all modes that photos have."""
    ramp = Image.linear_gradient("L").resize((60, 40))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.linspace(0, 65535, 2400).reshape(40, 60)
    clear = Image.merge("RGBA", [ramp, ramp.rotate(90).resize((60, 40)), ramp, ramp.rotate(180)])
    for name, image, kind, options in (
        ("bits", ramp.convert("1"), "PNG", {}),
        ("grey", ramp, "PNG", {}),
        ("deep", Image.fromarray(deep.astype(np.uint16)), "PNG", {}),
        ("float", Image.fromarray(deep.astype(np.float32)), "TIFF", {}),
        ("palette", clear.convert("P"), "PNG", {"transparency": 3}),
        ("print", ramp.convert("CMYK"), "JPEG", {}),
        ("clear", clear, "PNG", {}),
        ("turned", clear.convert("RGB"), "JPEG", {"exif": turned}),
        ("moving", ramp, "GIF", {"save_all": True, "append_images": [ramp.rotate(90)]}),
    ):
        yield pytest.param(encoded(image, kind, **options), id=name)
    grey_of_16_bits = Image.fromarray(deep.astype(np.uint16))
    for image in (
        ramp.convert("1"), ramp, clear.convert("P"), Image.merge("LA", clear.split()[:2]), clear.convert("RGB"), clear,
        clear.convert("CMYK"), clear.convert("RGB").convert("YCbCr"), grey_of_16_bits,
        Image.frombytes("I;16B", (60, 40), deep.astype(">u2").tobytes()), Image.fromarray(deep.astype(np.int32)),
        Image.fromarray(deep.astype(np.float32)),
    ):  # fmt: skip
        for compression in (None, "tiff_lzw"):
            yield pytest.param(turned_tiff(image, compression), id=f"turned-{image.mode}-{compression}")


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned_tiff(image, compression):
    """The encoded TIFFs of all orientations."""
    exif = Image.Exif()
    found = []
    for exif[0x0112] in range(1, 9):
        found.append(encoded(image, "TIFF", exif=exif, compression=compression))
    return found


@pytest.mark.parametrize("data", kinds())
def test_it_reads_images_as_training_does(data, tmp_path):
    if isinstance(data, list):
        shapes = [same_as_training(one, tmp_path / "photo") for one in data]
        assert shapes == [(40, 60, 3)] * 4 + [(60, 40, 3)] * 4
    else:
        same_as_training(data, tmp_path / "photo")


def same_as_training(data, file):
    file.write_bytes(data)
    found = standalone.read_image(file)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, decode_image(data, "photo"))
    return found.shape


def test_it_refuses_values_that_are_no_colours_as_training_does(tmp_path):
    for values in (np.full((4, 4), -3, np.int32), np.full((4, 4), np.nan, np.float32)):
        file = tmp_path / "photo.tiff"
        Image.fromarray(values).save(file)
        with pytest.raises(ValueError, match=r"values are|NaN"):
            standalone.read_image(file)
        with pytest.raises(DataError, match=r"values are|NaN"):
            decode_image(file.read_bytes(), "photo")


@pytest.mark.parametrize("size", [(64, 96), (97, 31), (5, 7), (1, 1), (300, 20), (64, 31)])
def test_logits_are_resized_as_torch_does(size):
    logits = np.random.default_rng(0).normal(size=(4, 64, 96)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear")[0]
    for found, ours in zip(logits, expected.numpy(), strict=True):
        assert np.abs(standalone._resized(found, size) - ours).max() < 1e-6
    assert (standalone.best_classes(logits, size) == expected.argmax(0).numpy()).mean() >= 0.999


def test_the_first_of_equal_classes_wins():
    assert (standalone.best_classes(np.zeros((3, 4, 4), np.float32), (4, 4)) == 0).all()


def facts(config, size=None):
    return config.model_dump() | {"size": size, "padding": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("size", [(64, 96), (45, 71), (33, 200), (7, 5), (200, 200)])
def test_a_whole_image_is_fitted_and_padded_as_in_evaluation(size):
    config = EvaluationConfig(scale=(96, 64))
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    fitted = standalone.fit(image, facts(config))
    ((place, padded),) = standalone.pieces(fitted, facts(config))
    assert padded.shape == (1, 3, *padded_size(size, config))
    assert place == (slice(0, fitted.shape[0]), slice(0, fitted.shape[1]))
    assert (padded[0, :, *place] == fitted.transpose(2, 0, 1)).all()
    assert (padded[0, 1, fitted.shape[0] :] == 2).all()


def test_windows_cover_the_image_and_the_last_ends_with_it():
    config = EvaluationConfig(mode="slide", window=64, stride=40)
    image = np.zeros((70, 130, 3), np.uint8)
    places = [place for place, _ in standalone.pieces(image, facts(config))]
    assert [(rows.start, columns.start) for rows, columns in places] == [
        (0, 0),
        (0, 40),
        (0, 66),
        (6, 0),
        (6, 40),
        (6, 66),
    ]
    small = standalone.pieces(np.zeros((30, 130, 3), np.uint8), facts(config))
    assert {padded.shape for _, padded in small} == {(1, 3, 32, 64)}


def test_an_image_is_fitted_into_the_only_size_of_a_network():
    config = EvaluationConfig(scale=(96, 64))
    fitted = standalone.fit(np.zeros((100, 50, 3), np.uint8), facts(config, [64, 96]))
    assert fitted.shape == (64, 32, 3)
    ((_, padded),) = standalone.pieces(fitted, facts(config, [64, 96]))
    assert padded.shape == (1, 3, 64, 96)
