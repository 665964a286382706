"""Labels in a COCO file: panoptic ones, which explain the colours of PNGs, or instances, which are drawn.

Both become label maps whose values are category ids, and 65535 where there is no segment. Where instances overlap,
the smaller one is seen, because a COCO file does not say which one is in front: a tie lies on a person, a cup on a
table. Crowds count as their category.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from cliptea.data.classes_file import LARGEST_ID, NONE
from cliptea.data.labels import counted, pixels_of
from cliptea.data.sample import LARGEST_FILE, opened
from cliptea.errors import ConfigError, DataError
from cliptea.names import composed
from cliptea.parse import parse_json

__all__ = ["CocoLabels"]

SHOWN = 3  # ids in a line
LONGEST = 60  # bits of a number in a run-length code
# pycocotools takes about 41 bytes and 0.1 microseconds for each pixel of an outline.
LONGEST_OUTLINE = 10_000_000  # pixels, of all polygons of an instance
EDGES, SPARE = 4, 100_000  # pixels of outlines in an image: so many for each of its pixels, and so many in addition
EXPECTED = "a COCO file of instances or of panoptic segments, with images, annotations and categories"


class Category(BaseModel):
    id: int = Field(ge=0, le=LARGEST_ID)
    name: str


class Picture(BaseModel):
    id: int | str
    file_name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class Segment(BaseModel):
    """Of a panoptic PNG."""

    id: int = Field(ge=1, lt=1 << 24)
    category_id: int


class Annotation(BaseModel):
    """An instance, or all segments of an image."""

    image_id: int | str
    category_id: int | None = None
    segmentation: Any = None
    file_name: str = ""  # of the panoptic PNG
    segments_info: list[Segment] | None = None


class Content(BaseModel):
    images: list[Picture]
    annotations: list[Annotation]
    categories: list[Category]


class CocoLabels:
    """The labels of one COCO file."""

    def __init__(self, data: bytes, where: str, todo: str = "") -> None:
        """Read a COCO file.

        Args:
            data: its bytes, JSON.
            where: the file, for errors.
            todo: what to do if it is not a COCO file.

        Raises:
            DataError: it is not a COCO file, or is not consistent.
        """
        try:
            content = Content.model_validate(parse_json(data, where, most=LARGEST_FILE))
        except ConfigError as error:
            raise DataError(error.what, EXPECTED, todo) from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            said = f"{place}: {first['msg']}" if place else "it holds no keys"
            raise DataError(f"{where} cannot be read ({said})", EXPECTED, todo) from None
        self.where, self.digest = where, hashlib.sha256(data).digest()
        self.categories = {category.name: category.id for category in content.categories}
        number = Counter(mark for category in content.categories for mark in (category.id, category.name))
        if twice := [one for one in content.categories if number[one.id] > 1 or number[one.name] > 1]:
            shown = ", ".join(f"{one.id} = {one.name}" for one in twice[:3])
            raise DataError(f"{where} has categories with the same name or id: {shown}", "each name and each id once")
        self._pictures = {_stem(picture.file_name): picture for picture in content.images}
        if len(self._pictures) != len(content.images):
            raise DataError(f"{where} has images with the same name", "each NAME once")
        ids = {picture.id for picture in content.images}
        if len(ids) != len(content.images):
            raise DataError(f"{where} has images with the same id", "each id once")
        self._annotations: dict[int | str, list[Annotation]] = defaultdict(list)
        for annotation in content.annotations:
            self._annotations[annotation.image_id].append(annotation)
        if lone := self._annotations.keys() - ids:
            _require_same_spelling(ids, lone, where)
            raise DataError(f"{where} has annotations of the image {min(map(str, lone))}, which it does not list")
        self.panoptic = any(
            one.segments_info is not None or (one.file_name and one.segmentation is None) for one in content.annotations
        )
        self._ids = {*self.categories.values()}
        if _in_shares(content.annotations):
            raise DataError(f"all polygons in {where} lie between 0 and 1, as shares of the image's size", "pixels")

    @property
    def names(self) -> list[str]:
        """The names of its images, without suffix."""
        return list(self._pictures)

    def png(self, name: str) -> str:
        """The file name of an image's panoptic PNG."""
        found = self._annotations.get(self._pictures[name].id, []) if name in self._pictures else []
        return _path(found[0].file_name).name if found and found[0].file_name else f"{name}.png"

    def values(self, name: str, png: bytes | None, png_name: str) -> np.ndarray:
        """(H, W) uint16 category ids of an image, or `NONE`.

        Args:
            png: the image's panoptic PNG, or None for instances.
            png_name: its file name, for errors.

        Raises:
            DataError: the file does not list the image, or its annotations do not describe it.
        """
        if name not in self._pictures:
            raise DataError(f"{self.where} does not list the image {name}", "an entry in its images")
        picture = self._pictures[name]
        annotations = self._annotations.get(picture.id, [])
        for one in annotations:
            for category in [segment.category_id for segment in one.segments_info or ()] or [one.category_id]:
                if category is not None and category not in self._ids:
                    raise DataError(f"{self.where} has the category {category} for the image {name}", "a listed id")
        if png is None:
            return _drawn(picture, annotations, f"{self.where}: image {name}")
        if len(annotations) != 1 or annotations[0].segments_info is None:
            found = (
                f"{len(annotations)} annotations" if len(annotations) != 1 else "one annotation, without segments_info,"
            )
            raise DataError(f"{self.where} has {found} of the image {name}", "one, with its segments_info")
        segments = annotations[0].segments_info
        if len({segment.id for segment in segments}) != len(segments):
            raise DataError(f"{self.where} has segments of the image {name} with the same id", "each id once")
        return _of_segments(png, png_name, segments)


def _path(file_name: str) -> PurePosixPath:
    return PurePosixPath(file_name.replace("\\", "/"))  # tools on Windows write backslashes


def _stem(file_name: str) -> str:
    return composed(_path(file_name).stem)


def _require_same_spelling(listed: Iterable[int | str], lone: Iterable[int | str], where: str) -> None:
    """Check that annotations do not write the ids of images otherwise than the images, such as "5" instead of 5.

    Raises:
        DataError: some do.
    """
    written = {_number(one): one for one in listed}
    twice = [(written[_number(one)], one) for one in sorted(lone, key=str) if _number(one) in written]
    if twice:
        shown = ", ".join(f"{json.dumps(first)} and {json.dumps(other)}" for first, other in twice[:SHOWN])
        more = f", and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        raise DataError(
            f"{where} writes image ids differently in images and in annotations: {shown}{more}",
            "the same spelling in both, such as numbers without quotes",
        )


def _number(one: int | str) -> int | str:
    """An id as a number, if it is one or a text of digits."""
    return int(one) if isinstance(one, int) or (one.isascii() and one.isdigit() and len(one) <= 20) else one


def _in_shares(annotations: list[Annotation]) -> bool:
    """Whether there are polygons, and all their coordinates are 0 to 1. The first one in pixels ends the search."""
    shapes = (one.segmentation for one in annotations if isinstance(one.segmentation, list))
    numbers = (number for shape in shapes for polygon in shape if isinstance(polygon, list) for number in polygon)
    first = next(numbers, None)
    return first is not None and all(
        isinstance(number, int | float) and 0 <= number <= 1 for number in itertools.chain([first], numbers)
    )


def _of_segments(png: bytes, name: str, segments: list[Segment]) -> np.ndarray:
    """Category ids of a panoptic PNG, whose segment ids are R + 256 G + 65536 B. The id 0 is no segment."""
    with opened(png, name, "label map", "PNG") as image:
        pixels = pixels_of(png, image, name)
    ids = pixels.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], dtype=np.int32)
    known = np.array([0, *(segment.id for segment in segments)], dtype=np.int32)
    order = np.argsort(known)
    places = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    strange = ids[known[places] != ids]
    if strange.size:
        found, number = np.unique(strange, return_counts=True)
        shown = counted([str(one) for one in found], number)
        raise DataError(f"{name} holds the segment ids {shown}", "ids in its segments_info, or 0")
    return np.array([NONE, *(segment.category_id for segment in segments)], dtype=np.uint16)[places]


def _drawn(picture: Picture, annotations: list[Annotation], where: str) -> np.ndarray:
    """Category ids of instances, the smaller ones over the larger ones."""
    from pycocotools import mask

    height, width = picture.height, picture.width
    if height * width > 2 * (Image.MAX_IMAGE_PIXELS or 0):
        raise DataError(f"{where} has {width}x{height} pixels", "the size of a photo")
    values = np.full((height, width), NONE, dtype=np.uint16)
    try:
        outlines = [_outline(annotation.segmentation, height, width) for annotation in annotations]
        most = EDGES * height * width + SPARE
        for total, limit in ((max(outlines, default=0), LONGEST_OUTLINE), (sum(outlines), most)):
            if total > limit:
                raise ValueError(f"its outlines have {total:.0f} pixels; at most {limit} can be drawn")
        instances = [(_encoded(annotation, height, width), annotation.category_id) for annotation in annotations]
        instances.sort(key=lambda instance: -int(mask.area(instance[0])))  # of equals the later one is seen
        for code, category in instances:  # one at a time, because each takes a byte a pixel
            values[mask.decode(code).astype(bool)] = category or 0  # `_encoded` has refused None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{where} has a segmentation that cannot be drawn ({error})",
            "polygons [[x1, y1, x2, y2, x3, y3, ...]], or a run-length code of the image's size",
        ) from None
    return values


def _outline(shape: Any, height: int, width: int) -> float:
    """The length of an instance's outlines in pixels; 0 for a run-length code. ValueError if they are no polygons."""
    length = 0.0
    for polygon in shape if isinstance(shape, list) else ():
        points = np.array(polygon, dtype=np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon is not a list of at least three points x, y")
        if abs(points).max() > 10 * max(height, width):
            raise ValueError("a polygon lies far outside the image")
        corners = points.reshape(-1, 2)
        length += abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
    return length


def _encoded(annotation: Annotation, height: int, width: int) -> Any:
    """The run-length code of an instance, as pycocotools reads it, after `_outline`. ValueError if it is none."""
    from pycocotools import mask

    shape = annotation.segmentation
    if annotation.category_id is None:
        raise ValueError("it has no category_id")
    if isinstance(shape, dict):
        if list(shape["size"]) != [height, width]:
            raise ValueError(f"its size is {shape['size']}, but the image has [{height}, {width}]")
        given = shape["counts"]
        counts = np.array(_runs(given, height * width + 1) if isinstance(given, str) else given)
        if counts.dtype.kind != "i" or counts.min(initial=0) < 0 or counts.sum() != height * width:
            raise ValueError("its runs do not add up to the pixels of the image")  # the library would not notice
        return mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    if not isinstance(shape, list) or not shape:
        raise ValueError("it is neither polygons nor a run-length code")
    return mask.merge(mask.frPyObjects(shape, height, width))


def _runs(text: str, most: int) -> list[int]:
    """The at most `most` runs of a compressed run-length code.

    They are numbers of 5 bits a letter, from the third on as differences.
    """
    runs: list[int] = []
    number = bits = 0
    for letter in text:
        part = ord(letter) - 48
        if not 0 <= part < 64:
            raise ValueError(f"its runs hold the letter {letter!r}")
        number |= (part & 31) << bits
        bits += 5
        if bits > LONGEST:
            raise ValueError("its runs hold a number that is too large")
        if not part & 32:  # the last letter of a number, which has its sign
            number -= (part & 16) << (bits - 4)
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = bits = 0
            if len(runs) > most:
                raise ValueError("it has more runs than the image has pixels")
    if bits:
        raise ValueError("its runs end within a number")
    return runs
