"""One decoder: a file has the same pixels in the shards, in figures and in predict, or is refused in all of them."""

import ast
import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cliptea
from cliptea.config import DataConfig
from cliptea.data.folder import Folder
from cliptea.data.records import read_image as read_stored
from cliptea.data.records import read_pair
from cliptea.data.sample import Sample, decode_image, require_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split_shards import write_split
from cliptea.errors import DataError
from cliptea.serving.photos import read_image
from cliptea.storage import FileStore

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 20), dtype=np.uint16)
FLOAT = RNG.normal(size=(12, 20)).astype(np.float32)
PALETTE = RNG.integers(0, 256, (4, 3), dtype=np.uint8)


def palette(**options):
    image = Image.fromarray(GREY % 4)
    image.putpalette(PALETTE.ravel().tolist())
    return image, options


def three(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


def on_white(rgb, alpha):
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


KINDS = {
    "grey.png": ((Image.fromarray(GREY), {}), three(GREY), 0),
    "deep.png": ((Image.fromarray(DEEP), {}), three(DEEP >> 8), 0),
    "deep.tif": ((Image.fromarray(DEEP), {}), three(DEEP >> 8), 0),
    "wide.tif": ((Image.fromarray(DEEP.astype(np.int32)), {}), three(DEEP >> 8), 0),
    "bit.png": ((Image.fromarray(GREY > 99), {}), three((GREY > 99) * 255), 0),
    "rgb.bmp": ((Image.fromarray(RGB), {}), RGB, 0),
    "rgb.webp": ((Image.fromarray(RGB), {"lossless": True}), RGB, 0),
    "RGB.TIFF": ((Image.fromarray(RGB), {}), RGB, 0),
    "palette.png": (palette(), PALETTE[GREY % 4], 0),
    "palette.gif": (palette(), PALETTE[GREY % 4], 0),
    "clear.png": (palette(transparency=0), np.where((GREY % 4)[..., None], PALETTE[GREY % 4], 255), 0),
    "rgba.png": ((Image.fromarray(np.dstack([RGB, ALPHA])), {}), on_white(RGB, ALPHA), 1.01),
    "la.png": ((Image.fromarray(np.dstack([GREY, ALPHA])), {}), on_white(three(GREY), ALPHA), 1.01),
    "float.tif": ((Image.fromarray(FLOAT), {}), three((FLOAT - FLOAT.min()) / np.ptp(FLOAT) * 255), 1.01),
    "cmyk.jpg": ((Image.new("CMYK", (20, 12), (0, 255, 255, 0)), {}), np.full((12, 20, 3), [255, 0, 0]), 6),
}


def turned(image, orientation):
    """EXIF 2.3, table 6: the raw pixels whose upright picture is `image`."""
    return {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image, 1),
        7: image[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(image, 3),
    }[orientation]


for number in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = number
    raw = Image.fromarray(np.ascontiguousarray(turned(RGB, number)))
    KINDS[f"exif{number}.png"] = ((raw, {"exif": exif}), RGB, 0)
    KINDS[f"exif{number}.webp"] = ((raw, {"exif": exif, "lossless": True}), RGB, 0)
    deep = Image.fromarray(np.ascontiguousarray(turned(DEEP, number)))
    KINDS[f"deep{number}.png"] = ((deep, {"exif": exif}), three(DEEP >> 8), 0)


def data_set(root, names):
    """A folder with one label map for each image."""
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((12, 20), np.uint8)).save(root / f"labels/{split}/{Path(name).stem}.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["a", "b"], "unseen": ["b"]}))
    return DataConfig(dataset="folder", root=str(root))


@pytest.mark.parametrize("name", KINDS)
def test_a_file_has_the_same_pixels_everywhere(name, tmp_path):
    (image, options), expected, tolerance = KINDS[name]
    config = data_set(tmp_path / "data", [name])
    for split in ("train", "val"):
        image.save(tmp_path / f"data/images/{split}/{name}", **options)
    store = FileStore(tmp_path / "store")
    made = write_split(store, config, "split/x", ["train", "val"])
    served = read_image(tmp_path / "data/images/val" / name)
    for split in ("train", "val"):  # training, tokens, evaluation and figures read shards
        reader = ShardReader(store, made.objects, split)
        seen, labels = read_pair(reader, 0)
        np.testing.assert_array_equal(seen, served)
        np.testing.assert_array_equal(read_stored(reader, reader.name(0)), served)
        assert seen.shape == (*labels.shape, 3)
    assert served.dtype == np.uint8
    assert np.abs(served - expected.astype(float)).max() <= tolerance
    warned = any("EXIF orientation" in problem for problem in made.info["problems"])
    assert warned == (name[4:5] in "2345678" and name[:4] in ("exif", "deep") and name[4] != ".")


def as_bytes(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


BAD = {
    "nan.tif": as_bytes(Image.fromarray(np.where(GREY > 99, np.nan, FLOAT).astype(np.float32)), "TIFF"),
    "inf.tif": as_bytes(Image.fromarray(np.where(GREY > 99, np.inf, FLOAT).astype(np.float32)), "TIFF"),
    "negative.tif": as_bytes(Image.fromarray(DEEP.astype(np.int32) - 70000), "TIFF"),
    "huge.tif": as_bytes(Image.fromarray(DEEP.astype(np.int32) + 70000), "TIFF"),
    "cut.png": as_bytes(Image.fromarray(RGB), "PNG")[:-300],
    "cut.jpg": as_bytes(Image.fromarray(RGB), "JPEG")[:-200],
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 12\n",
    "empty.png": b"",
    "text.png": b"hello",
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_everywhere_alike(name, tmp_path):
    config = data_set(tmp_path, [name])
    for split in ("train", "val"):
        (tmp_path / f"images/{split}/{name}").write_bytes(BAD[name])
    file, said = tmp_path / "images/val" / name, set()
    roads = (
        lambda: read_image(file),
        lambda: Folder(config).read("val", file.stem),
        lambda: decode_image(BAD[name], str(file)),
    )
    for read in roads:
        with pytest.raises(DataError) as caught:
            read()
        said.add(str(caught.value))
    (message,) = said
    assert name in message
    assert "\n" not in message


def test_an_upright_image_whose_labels_are_not_is_refused_with_both_sizes(tmp_path):
    config = data_set(tmp_path, ["a.png"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "images/train/a.png", exif=exif)
    with pytest.raises(DataError, match=r"a\.png has 20x12 pixels, but its image has 12x20, turned upright"):
        Folder(config).read("train", "a")
    labels = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20) % 2)
    labels.save(tmp_path / "labels/train/a.png", exif=exif)  # a label map follows the same rule
    np.testing.assert_array_equal(Folder(config).read("train", "a").labels, np.rot90(np.array(labels), 3))


def test_damaged_files_are_one_line_whatever_is_damaged():
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"):
        whole = as_bytes(Image.fromarray(RGB), kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), rng.integers(1, 6)):
                data[place] = rng.integers(0, 256)
            data = bytes(data[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.3 else bytes(data)
            with contextlib.suppress(DataError):
                pixels = decode_image(data, "x")
                assert pixels.dtype == np.uint8
                assert pixels.shape[2] == 3


def test_only_one_module_decodes_images():
    root = Path(cliptea.__file__).parents[2]
    files = [file for part in ("components", "pipeline") for file in (root / part).rglob("*.py")]
    assert len(files) > 100
    decoders = ("Image.open", "PIL.Image.open", "imread", "decode_png")
    opening = {
        str(file.relative_to(root))
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in decoders
    }
    bundled = "components/cliptea/serving/standalone.py"  # runs without cliptea; its own tests compare the pixels
    assert opening == {"components/cliptea/data/sample.py", bundled}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", None),
        ("BMP", None),
    ],
)  # fmt: skip
def test_labels_have_the_size_of_the_upright_image(kind, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("RGB", "L"):
        image = Image.new(mode, (7, 5))
        data = as_bytes(image, kind) if options is None else as_bytes(image, kind, exif=exif, **options)
        height, width = decode_image(data, "a").shape[:2]
        sideways = options is not None and orientation > 4
        assert (height, width) == ((7, 5) if sideways else (5, 7))
        require_labels(Sample(data, kind.lower(), np.zeros((height, width), np.uint8)), "a")
        with pytest.raises(DataError, match=rf"expected a numpy array uint8 \({height}, {width}\)"):
            require_labels(Sample(data, kind.lower(), np.zeros((width, height), np.uint8)), "a")


def test_what_is_no_image_has_no_labels():
    with pytest.raises(DataError, match=r"the data set gives no image for a .*; expected an encoded image"):
        require_labels(Sample(b"x", "jpg", np.zeros((1, 1), np.uint8)), "a")


def test_too_little_memory_is_no_damage_of_an_image(monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(MemoryError):
        require_labels(Sample(b"x", "jpg", np.zeros((1, 1), np.uint8)), "a")
    with pytest.raises(MemoryError):
        decode_image(b"x", "a")
