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


def grey_png(values, depth):
    """A grey PNG of 1, 2 or 4 bits a pixel, which Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :].reshape(len(values), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_refused(mode):
    with pytest.raises(
        DataError, match=rf"^the label map x\.png has pixel mode {mode}: colours, not label values; exp"
    ):
        decode_values(encoded(Image.fromarray(VALUES).convert(mode)), "x.png")


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
