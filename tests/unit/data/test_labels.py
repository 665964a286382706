"""Label PNGs of every mode: the values that were written, or one line that says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cliptea.data.labels import Colours, decode_values, voc_colours
from cliptea.data.sample import decode_labels
from cliptea.errors import DataError

VALUES = np.random.default_rng(0).integers(0, 2, (9, 13), dtype=np.uint8)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def raw_png(size, depth, colour, rows):
    """A PNG of any depth and colour type, also of those that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def grey_png(values, depth):
    """A grey PNG of 1, 2, 4 or 8 bits a pixel."""
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :].reshape(len(values), -1)
    return raw_png(values.shape, depth, 0, np.packbits(bits, axis=1))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_few_bits_keeps_its_values(depth):
    values = np.random.default_rng(depth).integers(0, 2**depth, (9, 13), dtype=np.uint8)
    found = decode_values(grey_png(values, depth), "x.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_gives_its_indices(bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, 13), dtype=np.uint8)
    image = Image.fromarray(values)
    image.putpalette(list(np.random.default_rng(0).bytes(3 << bits)))
    np.testing.assert_array_equal(decode_values(encoded(image, bits=bits), "x.png"), values)


def test_sixteen_bits_are_values_too():
    values = np.array([[0, 255], [256, 60000]], dtype=np.uint16)
    np.testing.assert_array_equal(decode_values(encoded(Image.fromarray(values)), "x.png"), values)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])  # RGB, RGBA, grey with alpha
def test_colours_of_sixteen_bits_are_refused(colour, channels):
    rows = np.full((9, 13 * channels), 0x01FF, ">u2")
    marks = Colours([0, 0x010101], "marks", only=True)
    with pytest.raises(DataError, match=r"label map x\.png has 16 bits a channel; expected colours of 8 bits"):
        decode_values(raw_png((9, 13), 16, colour, rows), "x.png", marks)


def test_a_tiff_of_sixteen_bits_a_channel_is_refused():
    pixels = np.full((9, 13, 3), 0x01FF, "<u2")
    tags = {256: 13, 257: 9, 258: 0, 259: 1, 262: 2, 273: 0, 277: 3, 278: 9, 279: pixels.nbytes}
    start = 8 + 2 + 12 * len(tags) + 4  # of what follows the tags: the bits of each channel, then the pixels
    tags |= {258: start, 273: start + 6}
    entries = b"".join(struct.pack("<HHII", tag, 4 - (tag == 258), 1 + 2 * (tag == 258), tags[tag]) for tag in tags)
    file = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I3H", 0, 16, 16, 16)
    with pytest.raises(DataError, match="has 16 bits a channel"):
        decode_values(file + pixels.tobytes(), "x.tif", Colours([0x010101], "marks", only=True))


def test_transparent_entries_of_a_palette_have_no_colour():
    image = Image.fromarray(VALUES)
    image.putpalette([0, 0, 0, 255, 255, 255, 9, 9, 9])
    marks = Colours([0, 0xFFFFFF], "marks", only=True)
    for unused in (encoded(image), encoded(image, transparency=2)):
        np.testing.assert_array_equal(decode_values(unused, "x.png", marks), VALUES)
    with pytest.raises(DataError, match=rf"x\.png has {VALUES.sum()} transparent pixels"):
        decode_values(encoded(image, transparency=1), "x.png", marks)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_refused(mode):
    with pytest.raises(
        DataError, match=rf"^the label map x\.png has pixel mode {mode}: colours, not label values; exp"
    ):
        decode_values(encoded(Image.fromarray(VALUES).convert(mode)), "x.png")


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.int16, "I"), (np.float32, "F")])
def test_numbers_of_other_kinds_are_not_called_colours(kind, mode):
    says = (
        f"has pixel mode {mode}: signed, 32-bit or floating-point numbers, not label values; .*; save it with 8 or 16"
    )
    with pytest.raises(DataError, match=says):
        decode_values(encoded(Image.fromarray(VALUES.astype(kind)), "TIFF"), "x.tif")


@pytest.mark.parametrize(
    ("form", "colours"), [("TIFF", None), ("GIF", None), ("TIFF", Colours([0, 0x010101], "", True))]
)
def test_a_file_of_several_label_maps_is_refused(form, colours):
    first, second = Image.fromarray(VALUES), Image.fromarray(1 - VALUES)
    with pytest.raises(DataError, match=r"^the label map x has several pages; expected one; save the labels"):
        decode_values(encoded(first, form, save_all=True, append_images=[second]), "x", colours)
    np.testing.assert_array_equal(decode_values(encoded(first, form), "x"), VALUES)


@pytest.mark.parametrize("kind", [1, 4])
def test_smaller_copies_and_masks_of_a_tiff_are_no_pages(kind):
    first, second = Image.fromarray(VALUES), Image.fromarray(1 - VALUES)
    second.encoderinfo = {"tiffinfo": {254: kind}}  # NewSubfileType
    data = encoded(first, "TIFF", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert image.tag_v2[254] == kind
    np.testing.assert_array_equal(decode_values(data, "x.tif"), VALUES)


def test_a_jpeg_under_the_name_of_a_png_is_refused():
    with pytest.raises(DataError, match=r"x\.png is a JPEG"):
        decode_values(encoded(Image.fromarray(VALUES), "JPEG"), "x.png")


@pytest.mark.parametrize("decode", [decode_values, decode_labels])
@pytest.mark.parametrize("data", [b"", b"text", encoded(Image.effect_noise((50, 50), 90))[:300]])
def test_what_is_no_whole_png_is_named(decode, data):
    with pytest.raises(DataError, match=r"cannot decode the label map labels\.png"):
        decode(data, "labels.png")


def test_colour_map_is_that_of_the_development_kit():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {index: tuple(voc_colours()[index].tolist()) for index in known} == known
    values = np.array([list(known)], dtype=np.uint8)
    image = Image.fromarray(np.array([list(known.values())], dtype=np.uint8))
    colours = Colours([(red << 16) + (green << 8) + blue for red, green, blue in voc_colours().tolist()], "colours")
    np.testing.assert_array_equal(decode_values(encoded(image), "x.png", colours), values)
