"""Label maps of raw data: reads pixel values from images of any mode, and converts them to train ids.

Masks can be palette, grey, 16-bit, 1-bit or coloured images. Files that are not unambiguous are rejected with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from cliptea.data.catalogue import IGNORE
from cliptea.data.sample import has_pages, opened
from cliptea.errors import DataError

__all__ = ["Colours", "LabelRule", "counted", "decode_values", "pixels_of", "voc_colours"]

PNG_DEPTH, PNG_COLOUR = 24, 25  # offsets of two bytes of a PNG's header
TIFF_DEPTH, TIFF_MEANING, TIFF_SIGN = 258, 262, 339  # tags: bits of each channel, what zero stands for, kind of number
WHITE_IS_ZERO, SIGNED = 0, 2  # values of the last two
BMP_BITS = {"1": 1, "L": 8}  # of a pixel, if Pillow reads a BMP with a grey palette correctly
GREY = 0  # colour type of a PNG
LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "WEBP": "a WebP"}
LOSSY_IN_TIFF = {"jpeg": "a JPEG in a TIFF", "tiff_jpeg": "a JPEG in a TIFF", "webp": "a WebP in a TIFF"}
SMOOTHED = 16  # a map with more unknown colours than this was probably smoothed
SHOWN = 5  # values in a message
UNKNOWN = IGNORE - 1  # no train id, as there are at most as many classes
NO_VALUE = 65535  # in the lookup of colours


@dataclass(frozen=True, eq=False)
class Colours:
    """Colours that stand for the values 0, 1, 2, ... of label maps."""

    codes: Sequence[int]  # 0xRRGGBB of each value
    expected: str  # description of these colours for errors
    only: bool = False  # whether the pixels of palette and grey images are also colours, and not values
    todo: str = ""  # what to do about other colours
    names: Mapping[int, str] = field(default_factory=dict)  # of colours that have no value, if they have names

    @cached_property
    def _lookup(self) -> np.ndarray:
        lookup = np.full(1 << 24, NO_VALUE, dtype=np.uint16)
        lookup[list(self.codes)] = range(len(self.codes))
        return lookup

    def values(self, image: np.ndarray, name: str) -> np.ndarray:
        """(H, W) uint16 values of (H, W, 3) uint8 colours.

        Raises:
            DataError: there is a colour without a value.
        """
        channels = image.astype(np.int32)
        codes = (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]
        values = self._lookup.take(codes)
        strange = codes[values == NO_VALUE]
        if strange.size:
            found, pixels = np.unique(strange, return_counts=True)
            shown = counted([self._shown(code) for code in found.tolist()], pixels)
            what = f"the label map {name} holds the colours {shown}"
            if len(found) > SMOOTHED:
                what = (
                    f"the label map {name} holds {len(found)} colours without a meaning on {strange.size} of "
                    f"{codes.size} pixels, such as {shown}: it seems to be smoothed, as by anti-aliasing, resizing, or "
                    "an earlier JPEG"
                )
                raise DataError(what, self.expected, "export the masks as PNG without smoothing")
            raise DataError(what, self.expected, self.todo)
        return values

    def _shown(self, code: int) -> str:
        return f"#{code:06x} = {self.names[code]}" if code in self.names else f"#{code:06x}"


def decode_values(data: bytes, name: str, colours: Colours | None = None) -> np.ndarray:
    """(H, W) uint8 or uint16 pixel values of a label map. The values of a palette image are its indices.

    Args:
        name: file name for error messages.
        colours: what RGB pixels stand for.

    Raises:
        DataError: the file is not readable, or of a kind that does not contain label values.
    """
    with opened(data, name, "label map", "PNG") as image:
        inside = LOSSY_IN_TIFF.get(image.info.get("compression", "")) if image.format == "TIFF" else None
        if lossy := inside or LOSSY.get(image.format or ""):
            raise DataError(f"the label map {name} is {lossy}, which alters label values", "a PNG file")
        if has_pages(data, image):
            raise DataError(
                f"the label map {name} has several pages", "one", "save the labels of all classes as one image"
            )
        if why := _misread(data, image):
            raise DataError(f"the label map {name} is {why}", "a PNG file", "save it as PNG")
        if colours is not None and (colours.only or image.mode == "RGB"):
            return colours.values(pixels_of(data, image, name), name)
        if image.mode not in ("1", "L", "P", "I;16", "I;16B"):
            numbers = image.mode in ("I", "F")
            kind = "signed, 32-bit or floating-point numbers" if numbers else "colours"
            colours_too = 'in a plain folder, classes.json can give each class its colours, such as "128,64,128"'
            raise DataError(
                f"the label map {name} has pixel mode {image.mode}: {kind}, not label values",
                "one channel of label values (PNG of mode L, P, 1 or I;16)",
                "save it with 8 or 16 bits without a sign" if numbers else colours_too,
            )
        tags = getattr(image, "tag_v2", {})
        if tags.get(TIFF_MEANING) == WHITE_IS_ZERO:
            raise DataError(
                f"the label map {name} is a TIFF in which 0 is white, so programs disagree about its values",
                "a TIFF in which 0 is black, or a PNG file",
                "save it as PNG, and look at the values",
            )
        if SIGNED in tags.get(TIFF_SIGN, ()):
            raise DataError(f"the label map {name} holds signed numbers", "label values of 8 or 16 bits without a sign")
        values = np.array(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "L":
        scale = 255 // (2 ** _grey_bits(data, image) - 1)  # Pillow scales 2 and 4 bits to 0..255
        return values if scale == 1 else values // scale
    return values.astype(np.uint16) if image.mode == "I;16B" else values


def _misread(data: bytes, image: Image.Image) -> str:
    """A kind of file from which Pillow gives other pixels than those that are stored, or ""."""
    if image.format == "BMP" and image.mode in BMP_BITS and _bmp_bits(data) != BMP_BITS[image.mode]:
        return f"a BMP of {_bmp_bits(data)} bits with a short grey palette, which cannot be read"
    if isinstance(image, ImageFile) and image.format == "GIF" and image.tile[0].extents != (0, 0, *image.size):
        return "a GIF whose picture does not fill its area"
    return ""


def _grey_bits(data: bytes, image: Image.Image) -> int:
    if image.format == "PNG" and data[PNG_COLOUR] == GREY:
        return data[PNG_DEPTH]
    return getattr(image, "tag_v2", {}).get(TIFF_DEPTH, (8,))[0]


def _bmp_bits(data: bytes) -> int:
    place = 24 if data[14] == 12 else 28  # the header of OS/2 is shorter
    return int.from_bytes(data[place : place + 2], "little")


def pixels_of(data: bytes, image: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8 colours of a label map of any mode that has 8 bits a channel and hides no pixels.

    Args:
        data: the file of the opened image.

    Raises:
        DataError: it has another mode, 16 bits a channel, or transparent pixels.
    """
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA"):
        raise DataError(f"the label map {name} has pixel mode {image.mode}", "colours of 8 bits a channel")
    if _has_16_bits(data, image):  # Pillow would cut them to 8 bits
        raise DataError(f"the label map {name} has 16 bits a channel", "colours of 8 bits a channel")
    if image.has_transparency_data:
        hidden = int((np.array(image.convert("RGBA"))[..., 3] < 255).sum())
        if hidden:
            raise DataError(
                f"the label map {name} has {hidden} transparent pixels, whose colours are not seen", "opaque colours"
            )
    return np.array(image.convert("RGB"))


def _has_16_bits(data: bytes, image: Image.Image) -> bool:
    if image.format == "PNG":
        return data[PNG_DEPTH] == 16
    return 16 in getattr(image, "tag_v2", {}).get(TIFF_DEPTH, ())


def voc_colours() -> np.ndarray:
    """(256, 3) uint8 colour map of PASCAL VOC's development kit: bits of the index, spread over R, G and B."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - bit)).astype(np.uint8)
        index >>= 3
    return colours


def counted(names: Sequence[str], pixels: np.ndarray) -> str:
    """Some values with the number of their pixels, the most frequent ones first."""
    order = np.argsort(-pixels, kind="stable")[:SHOWN].tolist()
    shown = ", ".join(f"{names[one]} ({pixels[one]} pixel{'s' if pixels[one] > 1 else ''})" for one in order)
    return shown + (", ..." if len(names) > SHOWN else "")


def _pixels_by_value(values: np.ndarray) -> np.ndarray:
    """(256,) or (65536,) int64 pixels of each value of a map of 8 or 16 bits.

    Label maps have long runs of one value, so that adding up runs is several times as fast as counting pixels.
    """
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(starts, append=flat.size)
    return np.bincount(flat[starts], lengths, np.iinfo(values.dtype).max + 1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class LabelRule:
    """The meaning of pixel values in label maps."""

    table: np.ndarray  # (N,) uint8, the train id of each value, or 255; N is 256, or more for values of 16 bits
    known: np.ndarray  # (N,) bool, the values that may occur
    expected: str  # description of these values for errors
    todo: str  # what to do about other values
    names: list[str] = field(default_factory=list)  # of the values 0, 1, 2, ..., if they have names
    colours: Colours | None = None  # what RGB pixels stand for
    shown: dict[int, str] = field(default_factory=dict)  # what errors show for a value, if not its number alone
    origin: bytes = b""  # what else values depend on, for the digest of the data

    def train_ids(self, values: np.ndarray, name: str) -> np.ndarray:
        """(H, W) uint8 train ids of (H, W) uint8 or uint16 values.

        Raises:
            DataError: there is a value without a meaning.
        """
        # Bytes are translated and searched several times as fast as arrays.
        small = values.dtype == np.uint8
        data = values.tobytes().translate(self._bytes) if small else self._marked.take(values).tobytes()
        if UNKNOWN in data:
            self._require_known(_pixels_by_value(values), name)
        return np.frombuffer(bytearray(data), dtype=np.uint8).reshape(values.shape)

    def count(self, values: np.ndarray, name: str) -> np.ndarray:
        """(256,) int64 pixels of each train id in (H, W) uint8 or uint16 values, without making the map of train ids.

        Raises:
            DataError: as for `train_ids`.
        """
        pixels = _pixels_by_value(values)
        self._require_known(pixels, name)
        found = np.flatnonzero(pixels)
        total = np.zeros(256, dtype=np.int64)
        np.add.at(total, self._marked[found], pixels[found])
        return total

    def _require_known(self, pixels: np.ndarray, name: str) -> None:
        strange = np.flatnonzero((pixels > 0) & (self._marked[: len(pixels)] == UNKNOWN))
        if strange.size:
            names = [self.shown.get(value, str(value)) for value in strange.tolist()]
            raise DataError(f"{name} holds the label ids {counted(names, pixels[strange])}", self.expected, self.todo)

    @cached_property
    def _marked(self) -> np.ndarray:
        """(65536,) uint8, the train id of each value of 16 bits, or `UNKNOWN`, so that each pixel is looked up once."""
        marked = np.full(1 << 16, UNKNOWN, dtype=np.uint8)
        marked[: len(self.table)][self.known] = self.table[self.known]
        return marked

    @cached_property
    def _bytes(self) -> bytes:
        """The same for values of 8 bits."""
        return self._marked[:256].tobytes()
