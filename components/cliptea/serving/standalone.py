"""Segments images with the model in this folder. It needs NumPy, Pillow and onnxruntime, and nothing else.

    python segment.py photo.jpg folder_with_photos -o segmented

In Python, `Model().mask(read_image(Path("photo.jpg")))` is an (H, W) uint8 array of positions in `Model().classes`.

`cliptea bundle` copies this file as segment.py next to model.onnx and model.json, whose sha256 are in SHA256SUMS. The
masks are those of `cliptea predict`.

Shape legend: H, W image; h, w image fitted into the model's scale; N classes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["Model", "best_classes", "fit", "output_name", "overlay", "pieces", "read_image", "require_images"]

HERE = Path(__file__).resolve().parent
FILES = FACTS, NETWORK = "model.json", "model.onnx"
SUMS = "SHA256SUMS"  # of these files, as sha256sum writes it
CLASSES = "classes.json"  # of the results: the names of the values of masks
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
DEEPEST_GREY = 65535
MOST_IMAGES = 64  # of one request to a server, which computes them one after another
OPACITY = 0.55
URI = r"[A-Za-z][A-Za-z0-9+.-]+:/|(?i:s3|gs|file|https?):"  # how a text begins that is no path


class Model:
    """The network in model.onnx, with what model.json says about its input.

    Raises:
        ValueError: these files do not match SHA256SUMS.
        OSError: one of the three is missing.
    """

    def __init__(self, folder: Path = HERE) -> None:
        import onnxruntime

        files = {name: (folder / name).read_bytes() for name in FILES}
        sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
        if (folder / SUMS).read_text(encoding="utf-8") != sums:
            raise ValueError(f"these files do not match {SUMS}")
        self.facts: dict[str, Any] = json.loads(files[FACTS])
        self.classes: list[str] = self.facts["classes"]
        installed = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(files[NETWORK], providers=installed)

    def masks(self, images_BHW3: np.ndarray) -> np.ndarray:
        """(B, H, W) uint8 positions in `classes`, of images that `require_images` accepts."""
        return np.stack([self.mask(image_HW3) for image_HW3 in images_BHW3])

    def mask(self, image_HW3: np.ndarray) -> np.ndarray:
        """(H, W) uint8 positions in `classes`, of a uint8 RGB image."""
        return best_classes(self.logits(image_HW3), image_HW3.shape[:2])

    def logits(self, image_HW3: np.ndarray) -> np.ndarray:
        """(N, h, w) float32 logits of the fitted image. Those of overlapping windows are averaged."""
        fitted_hw3 = fit(image_HW3, self.facts)
        height, width = fitted_hw3.shape[:2]
        sums_Nhw = np.zeros((len(self.classes), height, width), np.float32)
        counts_hw = np.zeros((height, width), np.float32)
        for (rows, columns), padded_13hw in pieces(fitted_hw3, self.facts):
            logits_1Nhw = np.asarray(self._session.run(None, {"images": padded_13hw})[0])
            sums_Nhw[:, rows, columns] += logits_1Nhw[0, :, : rows.stop - rows.start, : columns.stop - columns.start]
            counts_hw[rows, columns] += 1
        if not np.isfinite(sums_Nhw).all():
            raise ValueError("a logit is NaN or infinite")
        return sums_Nhw / counts_hw


def require_images(images: np.ndarray) -> None:
    """Check the input of a request to a server.

    Raises:
        ValueError: it is not (B, H, W, 3) uint8 with 1 to MOST_IMAGES images that have pixels.
    """
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"the input is {images.dtype} {shape}; expected UINT8 (B, H, W, 3)")
    if not images.size:
        raise ValueError(f"the input has the shape {shape}; expected at least one image with pixels")
    if len(images) > MOST_IMAGES:
        raise ValueError(f"the input has {len(images)} images; expected at most {MOST_IMAGES} in one request")


def read_image(file: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, as training read its images.

    It is turned upright according to EXIF. 16-bit values are reduced to 8 bits, floats are scaled so that the smallest
    is 0 and the largest 255, and transparent pixels are put on white. Only the first image of an animation is used.
    """
    data = file.read_bytes()  # Pillow maps files into memory, and then turns some TIFFs wrongly
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I") or image.mode == "F":
            return np.array(Image.fromarray(_grey(np.array(image), image.mode)).convert("RGB"))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def _grey(values: np.ndarray, mode: str) -> np.ndarray:
    low, high = values.min(), values.max()
    if mode != "F":
        if low < 0 or high > DEEPEST_GREY:
            raise ValueError(f"its values are {low} to {high}, not 0 to {DEEPEST_GREY}")
        return (values >> 8).astype(np.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds NaN or infinity")
    values = values.astype(np.float64)
    return ((values - low) / max(float(high) - float(low), 1e-12) * 255).astype(np.uint8)


def fit(image_HW3: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """(h, w, 3) uint8: the image resized into the model's scale, or into the only size of its network."""
    height, width = image_HW3.shape[:2]
    if facts["size"]:
        factor = min(facts["size"][0] / height, facts["size"][1] / width)
    else:
        factor = min(max(facts["scale"]) / max(height, width), min(facts["scale"]) / min(height, width))
    fitted = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    if fitted == (height, width):
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize((fitted[1], fitted[0]), Image.Resampling.BILINEAR))


def pieces(fitted_hw3: np.ndarray, facts: Mapping[str, Any]) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The rows and columns of each window, and the network's input for it: (1, 3, h, w) float32, padded.

    In the mode `whole`, there is one window, which is the whole image.
    """
    height, width = fitted_hw3.shape[:2]
    edge = max(height, width) if facts["mode"] == "whole" else facts["window"]
    window = min(edge, height), min(edge, width)
    size = facts["size"] or [length + -length % facts["divisor"] for length in window]
    for top in _starts(height, window[0], facts["stride"]):
        for left in _starts(width, window[1], facts["stride"]):
            place = slice(top, top + window[0]), slice(left, left + window[1])
            padded_hw3 = np.empty((*size, 3), np.float32)
            padded_hw3[:] = facts["padding"]
            padded_hw3[: window[0], : window[1]] = fitted_hw3[place]
            yield place, np.ascontiguousarray(padded_hw3.transpose(2, 0, 1)[None])


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side. The last window is moved back so that it ends with the image."""
    steps = -(-(length - window) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def best_classes(logits_Nhw: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(H, W) uint8: the class with the largest logit after resizing, the first of equal ones.

    Only the logits of one class exist at the image's size at a time.
    """
    best_HW = np.full(size, -np.inf, np.float32)
    class_HW = np.zeros(size, np.uint8)
    for number, logits_hw in enumerate(logits_Nhw):
        logits_HW = _resized(logits_hw, size)
        class_HW[logits_HW > best_HW] = number
        best_HW = np.maximum(best_HW, logits_HW)
    return class_HW


def _resized(values_hw: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Bilinear, with pixel centres at half-integers and no antialiasing.

    This is torch's interpolate with align_corners=False.
    """
    if values_hw.shape == tuple(size):
        return values_hw
    (above, below, down), (left, right, across) = (
        _neighbours(old, new) for old, new in zip(values_hw.shape, size, strict=True)
    )
    values_hW = values_hw[:, left] * (1 - across) + values_hw[:, right] * across
    return values_hW[above] * (1 - down[:, None]) + values_hW[below] * down[:, None]


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two old pixels around each new one, and the share of the second, with torch's float32 arithmetic."""
    at = np.maximum(np.float32(old / new) * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = np.minimum(at.astype(np.int64), old - 1)
    return first, np.minimum(first + 1, old - 1), at - first.astype(np.float32)


def overlay(image_HW3: np.ndarray, mask_HW: np.ndarray, colours: Sequence[Sequence[int]]) -> Image.Image:
    """The image with the colours of its classes on top."""
    coloured_HW3 = np.array(colours, np.uint8)[mask_HW]
    return Image.blend(Image.fromarray(image_HW3), Image.fromarray(coloured_HW3), OPACITY)


def output_name(file: Any, relative: Path, taken: Mapping[str, Any]) -> str:
    """The name of an image's outputs: its path without the suffix.

    If another image has this name, the suffix is added with an underscore, and then a number.

    Args:
        file: the image.
        relative: its path below the folder that was given.
        taken: the images that have a name, by this name.
    """
    candidates = [relative.with_suffix(""), relative.with_name(relative.name.replace(".", "_"))]
    numbered = (candidates[-1].with_name(f"{candidates[-1].name}-{number}") for number in range(2, len(taken) + 3))
    return next(str(name) for name in (*candidates, *numbered) if taken.get(str(name), file) == file)


def _open() -> Model:
    try:
        return Model()
    except Exception as error:  # onnxruntime has errors of its own for damaged files
        why = " ".join(str(error).split())[:200] or type(error).__name__
        todo = "" if isinstance(error, (PermissionError, MemoryError)) else "; make the bundle again"
        raise _refusal(f"cannot open model.onnx and model.json in {HERE} ({why}){todo}") from None


def _refusal(text: str) -> SystemExit:
    return SystemExit(_shown(f"error: {text}"))


def _shown(text: str) -> str:
    """The text with control characters and bytes that are not UTF-8 as `\\x1b`, `\\udcff`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _find(given: Sequence[str | Path], output: Path) -> dict[str, Path]:
    """Images by the name of their outputs: the files given, and those in the folders given, without results.

    Folders below them that cannot be read are among them. What else the folders hold is counted on stderr.
    """
    found: dict[str, Path] = {}
    left: Counter[str] = Counter()
    if not all(str(one).strip() for one in given):
        raise _refusal("the name of an image is empty; use . for this folder")
    for path in map(Path, given):
        try:
            path.stat()
            searched = path.is_dir()
            if searched:
                os.scandir(path).close()
        except FileNotFoundError:
            raise _refusal(f"the file or folder {path} does not exist") from None
        except OSError as error:
            raise _refusal(f"cannot read {path} ({error.strerror or error})") from None
        inside = [(path, Path(path.name))]
        if searched:
            every = _images(path, output, left)
            inside = [(file, file.relative_to(path)) for file in every if output not in _real(file).parents]
        if not inside:
            raise _refusal(f"the folder {path} contains no images; expected {', '.join(SUFFIXES)}")
        for file, relative in inside:
            found.setdefault(output_name(file, relative, found), file)
    for why, number in left.items():
        print(f"{number} left out ({why})", file=sys.stderr)
    return found


def _local(given: str) -> Path:
    """The folder for the results."""
    if not given.strip() or re.match(URI, given.strip()):
        raise _refusal(f"-o {given!r} is not a path on this machine; expected a folder for the results")
    path = os.path.expanduser(given)  # pathlib's would also expand ./~
    if path.startswith("~"):
        raise _refusal(
            f"-o {given!r} begins with ~ and the name of a user who does not exist; expected a path; use ./{given}"
        )
    return Path(path)


def _real(path: Path) -> Path:
    """The path without links. One that is a link to itself is returned as it is."""
    return Path(os.path.realpath(path))


def _images(folder: Path, output: Path, left: Counter[str]) -> Iterator[Path]:
    """All image files in a folder and below that are not hidden: in each folder first its own, then those below.

    A folder that cannot be read is yielded itself.

    Args:
        output: the folder for results, which is not searched.
        left: counts what else there is, by the reason why it is left out.
    """
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        yield folder
        return
    below = []
    for path in inside:
        if path.name.startswith("."):
            left["hidden"] += 1
        elif os.path.isdir(path):
            below.append(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        else:
            left["not an image by its suffix"] += 1
    for path in below:
        if path.is_symlink():
            left["a link to a folder"] += 1
        elif _real(path) != output:
            yield from _images(path, output, left)


def _claim(folder: Path, classes: Sequence[str]) -> None:
    """Make the folder for the results, and write the classes into it. Only a folder that has them is used again."""
    mark = folder / CLASSES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not mark.is_file():
            raise _refusal(f"-o {folder} holds other files; expected a new or an empty folder")
        text = json.dumps(list(classes), ensure_ascii=False, indent=1) + "\n"
        if mark.exists() and mark.read_text(encoding="utf-8") != text:
            raise _refusal(f"-o {folder} holds results with other classes; choose another folder")
        mark.write_text(text, encoding="utf-8")
    except UnicodeDecodeError:
        raise _refusal(f"-o {folder} holds a {CLASSES} that is not from this script; choose another folder") from None
    except OSError as error:
        raise _refusal(f"cannot write to -o {folder}: {error.strerror}; choose another folder") from None


def _save(picture: Image.Image, file: Path, kind: str) -> None:
    """Write the file at once, so that an error while encoding leaves none."""
    stream = io.BytesIO()
    picture.save(stream, kind, quality=88)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # a link may lead to a file of somebody else
    file.write_bytes(stream.getvalue())


def main() -> int:
    """Write masks/NAME.png, whose pixel values are positions in `classes`, and overlays/NAME.jpg for each image."""
    parser = argparse.ArgumentParser(description="Segment images with the model in the folder of this script.")
    parser.add_argument("images", nargs="+", help="images, or folders of images")
    parser.add_argument("-o", "--output", default="segmented", help="folder for masks and overlays")
    given = parser.parse_args()
    output = _local(given.output)
    sources = _find(given.images, _real(output))
    if output.exists() and not output.is_dir():
        raise _refusal(f"-o {output} is a file; expected a folder for the results")
    model, bad = _open(), 0
    _claim(output, model.facts["classes"])
    colours = model.facts["colours"]
    for name, file in sources.items():
        try:
            if file.is_dir():
                os.scandir(file).close()  # its error says why the folder cannot be read
            if not file.is_file():
                raise OSError("it is not a regular file")
            image_HW3 = read_image(file)
            mask_HW = model.mask(image_HW3)
            picture = Image.fromarray(mask_HW)
            picture.putpalette([value for colour in colours for value in colour])
            _save(picture, output / "masks" / f"{name}.png", "PNG")
            _save(overlay(image_HW3, mask_HW, colours), output / "overlays" / f"{name}.jpg", "JPEG")
        except Exception as error:  # damaged files make Pillow raise almost any error
            why = "it is not an image" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
            print(_shown(f"error: cannot segment {file} ({why})"), file=sys.stderr)
            bad += 1
    done = len(sources) - bad
    if done:
        print(_shown(f"wrote masks and overlays of {done} image{'s' * (done != 1)} to {output}"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
