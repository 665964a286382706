"""Label maps of raw data: reads pixel values from PNGs of any mode, and converts them to train ids.

Masks can be palette, grey, 16-bit, 1-bit or coloured PNGs. Files that are not unambiguous are rejected with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cliptea.data.catalogue import IGNORE
from cliptea.data.sample import opened
from cliptea.errors import DataError

__all__ = ["LabelRule", "decode_values", "voc_colours"]

PNG_DEPTH, PNG_COLOUR = 24, 25  # offsets of two bytes of a PNG's header
GREY = 0  # colour type of a PNG


def decode_values(data: bytes, name: str, coloured: bool = False) -> np.ndarray:
    """(H, W) uint8 or uint16 pixel values of a label map. The values of a palette image are its indices.

    Args:
        name: file name for error messages.
        coloured: whether RGB pixels are colours of the VOC colour map.

    Raises:
        DataError: the file is not readable, or of a kind that does not contain label values.
    """
    expected = "one channel of label values (PNG of mode L, P, 1 or I;16)"
    with opened(data, name, "label map", "PNG") as image:
        if image.format in ("JPEG", "MPO"):
            raise DataError(f"the label map {name} is a JPEG, which alters label values", "a PNG file")
        if image.mode == "RGB" and coloured:
            return _uncoloured(np.array(image), name)
        if image.mode not in ("1", "L", "P", "I;16"):
            raise DataError(f"the label map {name} has pixel mode {image.mode}: colours, not label values", expected)
        values = np.array(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "L" and image.format == "PNG" and data[PNG_COLOUR] == GREY:
        return values // (255 // (2 ** data[PNG_DEPTH] - 1))  # Pillow scales 2 and 4 bits to 0..255
    return values


def voc_colours() -> np.ndarray:
    """(256, 3) uint8 colour map of PASCAL VOC's development kit: bits of the index, spread over R, G and B."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - bit)).astype(np.uint8)
        index >>= 3
    return colours


def _uncoloured(image: np.ndarray, name: str) -> np.ndarray:
    """(H, W) uint8 indices in the VOC colour map of (H, W, 3) uint8 colours."""
    weights = np.array([1 << 16, 1 << 8, 1])
    index = {int(code): number for number, code in enumerate(voc_colours() @ weights)}
    codes, places = np.unique(image @ weights, return_inverse=True)
    strange = [int(code) for code in codes if int(code) not in index]
    if strange:
        raise DataError(
            f"the label map {name} is RGB and holds the colour #{strange[0]:06x}",
            "colours of the PASCAL VOC colour map, or one channel of label values",
        )
    return np.array([index[int(code)] for code in codes], dtype=np.uint8)[places.reshape(image.shape[:2])]


@dataclass(frozen=True, eq=False)
class LabelRule:
    """The meaning of pixel values in label maps."""

    table: np.ndarray  # (256,) uint8, the train id of each value, or 255
    known: np.ndarray  # (256,) bool, the values that may occur
    expected: str  # description of these values for errors
    todo: str  # what to do about other values
    names: list[str] = field(default_factory=list)  # of the values 0, 1, 2, ..., if they have names
    coloured: bool = False  # whether RGB pixels are colours of the VOC colour map

    def train_ids(self, values: np.ndarray, name: str) -> np.ndarray:
        """(H, W) uint8 train ids of (H, W) uint8 or uint16 values.

        Raises:
            DataError: there is a value without a meaning.
        """
        found = np.flatnonzero(np.bincount(values.ravel()))
        strange = [int(value) for value in found if value > IGNORE or not self.known[value]]
        if strange:
            shown = ", ".join(map(str, strange[:5])) + (", ..." if len(strange) > 5 else "")
            raise DataError(f"{name} holds the label ids {shown}", self.expected, self.todo)
        return self.table[values]
