"""Label PNGs of every mode: the values that were written, or one line that says why not."""

import contextlib
import io
import itertools
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


def packed(values, bits):
    """The rows of values of some bits each, with the first value in the highest bits of a byte."""
    ones = (values[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    return np.packbits(ones.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def tiff(values, bits, meaning=1, order="<", fill=1, compression=1, sign=1):
    """A TIFF of one strip, with a palette if `meaning` is 3. The bits of each byte are reversed if `fill` is 2."""
    height, width = values.shape
    data = values.astype(f"{order}u2").tobytes() if bits == 16 else packed(values, bits)
    data = zlib.compress(data) if compression == 8 else data
    if fill == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    colours = np.random.default_rng(0).integers(0, 1 << 16, 3 << bits, dtype=np.uint16).astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: compression, 262: meaning, 266: fill, 273: 0, 277: 1, 278: height}
    tags |= {279: len(data), 320: 0, 339: sign}
    if meaning != 3:
        del tags[320]
    start = 8 + 2 + 12 * len(tags) + 4  # of what follows the tags
    tags |= {273: start} | ({320: start + len(data)} if meaning == 3 else {})
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 3, 3 << bits, value)
        if tag == 320
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in sorted(tags.items())
    )
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    return head + entries + bytes(4) + data + (colours if meaning == 3 else b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("meaning", [1, 3])  # black is zero, or a palette
def test_a_tiff_keeps_its_values_or_is_refused(bits, meaning):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (9, 13), dtype=np.uint16)
    read = set()
    for order, fill, compression in itertools.product("<>", (1, 2), (1, 8)):
        with contextlib.suppress(DataError):
            found = decode_values(tiff(values, bits, meaning, order, fill, compression), "x.tif")
            np.testing.assert_array_equal(found, values)
            read.add((order, fill, compression))
    usual = set() if meaning == 3 and bits > 8 else {("<", 1, 1)} if bits == 12 else {("<", 1, 1), (">", 1, 1)}
    assert read >= usual


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_tiff_in_which_zero_is_white_is_refused(bits):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (9, 13), dtype=np.uint16)
    with pytest.raises(DataError, match=r"^the label map x\.tif is a TIFF in which 0 is white, so .*; save it as PNG"):
        decode_values(tiff(values, bits, meaning=0), "x.tif")


def test_a_tiff_of_signed_or_lossy_values_is_refused():
    with pytest.raises(DataError, match=r"x\.tif holds signed numbers"):
        decode_values(tiff(VALUES, 8, sign=2), "x.tif")
    with pytest.raises(DataError, match=r"x\.tif is a JPEG in a TIFF, which alters label values"):
        decode_values(encoded(Image.fromarray(VALUES), "TIFF", compression="jpeg"), "x.tif")


def bmp(values, bits, colours):
    rows = [packed(row[None], bits) for row in values[::-1]]
    data = b"".join(row + bytes(-len(row) % 4) for row in rows)
    table = b"".join(bytes([blue, green, red, 0]) for red, green, blue in colours)
    header = struct.pack("<IiiHHIIiiII", 40, *values.shape[::-1], 1, bits, 0, len(data), 0, 0, len(colours), 0)
    start = 14 + len(header) + len(table)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + header + table + data


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_bmp_keeps_its_values_or_is_refused(bits):
    read = []
    for number in {2, 3, 1 << bits} - ({3} if bits == 1 else set()):
        values = np.random.default_rng(number).integers(0, number, (9, 13), dtype=np.uint8)
        ramp = np.arange(number)
        for greys in (ramp, ramp[::-1], ramp * 255 // (number - 1)):
            for blue in (0, 1):
                data = bmp(values, bits, [(grey, grey, grey ^ blue) for grey in greys.tolist()])
                try:
                    found = decode_values(data, "x.bmp")
                except DataError as error:
                    assert "a BMP of" in str(error)  # noqa: PT017
                    continue
                np.testing.assert_array_equal(found, values)
                read.append(number)
    assert len(read) >= {1: 6, 4: 12, 8: 16}[bits]


def test_a_gif_whose_picture_is_smaller_than_its_area_is_refused():
    data = bytearray(encoded(Image.fromarray(VALUES), "GIF"))
    np.testing.assert_array_equal(decode_values(bytes(data), "x.gif"), VALUES)
    data[6:8] = struct.pack("<H", 20)
    with pytest.raises(DataError, match=r"x\.gif is a GIF whose picture does not fill its area"):
        decode_values(bytes(data), "x.gif")
