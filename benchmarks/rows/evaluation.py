"""Evaluation and predict, with images side by side on the cores, against a plain loop that takes one after the other.

The loop is what evaluation was: it reads an image, runs the network with all cores, ranks the classes and counts
pixels, with plain attention, a decoder that upsamples each channel on its own, and `max` over the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.as_before import as_before
from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import CLASSES, device, random_model
from cliptea.config import EvaluationConfig
from cliptea.data.catalogue import IGNORE, Catalogue
from cliptea.data.sample import decode_image, decode_labels
from cliptea.evaluation.scoring import score_student
from cliptea.models.student import Student
from cliptea.segment.inference import image_logits
from cliptea.segment.masks import rank
from cliptea.segment.segmenter import Segmenter
from cliptea.serving.photos import find_images, read_image
from cliptea.serving.predict import into, predict

__all__ = ["measure", "read_pair", "write_images"]

NOTE = (
    "Evaluation and predict: the plain side has the attention, the upsampling in the decoder and the choice of the "
    "best class that cliptea had before, and takes one image after the other. Pixels whose two best logits differ by "
    "rounding may get another class."
)
ON_GPU = " In evaluation on a GPU, the threads of the one process are limited by Python and by decoding."


def measure(bench: Bench) -> Iterator[Row]:
    """SegFormer-B0 at 512x512: 200 images for a single round with a GPU or in long runs, else 20 in each round."""
    side, number = (64, 4) if bench.quick else (512, 200 if bench.long or device() == "cuda" else 20)
    folder = bench.folder / "evaluation"
    write_images(folder, side, number)
    settings = EvaluationConfig(figures=number, scale=(4 * side, side))
    model = random_model("segformer_b0", side, settings)
    student, text_ND = model.student, model.text_ND
    catalogue = Catalogue(classes=model.description.classes, unseen=model.description.unseen)
    photos = [f"{place:03d}" for place in range(number)]
    read = partial(read_pair, folder)
    found: dict[str, dict[str, np.ndarray]] = {}

    def engine() -> None:
        _, found["engine"] = score_student(student, photos, read, catalogue, text_ND, settings, "benchmark")

    def loop() -> None:
        with as_before():
            found["loop"] = _scored(student, photos, read, catalogue, text_ND, settings)

    note = NOTE + ON_GPU if device() == "cuda" else NOTE
    rounds = 1 if number == 200 else bench.repeats
    own, other = interleaved(rounds, engine, loop)
    equal = np.mean([np.mean(found["engine"][name] == mask) for name, mask in found["loop"].items()])
    what = f"{number} images of {side}x{side}, segformer_b0, {CLASSES} classes, {device()}"
    yield Row(
        f"evaluation, {what}: as it is : a plain loop",
        f"{median(own):.3g} s",
        f"{median(other):.3g} s; {equal:.4%} of pixels equal",
        speed(own, other),
        1.6,
        details={"equal_pixels": float(equal)},
        note=note,
    )
    own, other = interleaved(rounds, partial(_predict, model, folder), partial(_predict_plainly, model, folder))
    yield Row(
        f"predict, {what}, masks and overlays written: as it is : masks of a plain loop, nothing written",
        f"{median(own):.3g} s",
        f"{median(other):.3g} s",
        speed(own, other),
        note=note,
    )


def _predict(model: Segmenter, folder: Path) -> None:
    sources = find_images([folder / "images"], folder / "out").sources
    assert all(one.error is None for one in predict(model, model.known(), sources, into(folder / "out")))


def _predict_plainly(model: Segmenter, folder: Path) -> None:
    with as_before():
        for source in find_images([folder / "images"], folder / "out").sources:
            model.mask(read_image(source.path), model.known())


def write_images(folder: Path, side: int, number: int) -> None:
    """JPEGs of blurred noise with patches of labels, in `images` and `labels`."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for name in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"images/{name:03d}.jpg", quality=92)
        labels = Image.fromarray(rng.integers(0, CLASSES, (4, 4), dtype=np.uint8))
        labels.resize((side, side), Image.Resampling.NEAREST).save(folder / f"labels/{name:03d}.png")


def read_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The image and the labels of a name, decoded."""
    image, labels = folder / f"images/{name}.jpg", folder / f"labels/{name}.png"
    return decode_image(image.read_bytes(), name), decode_labels(labels.read_bytes(), name)


def _scored(
    student: Student,
    names: Sequence[str],
    read: Callable[[str], tuple[np.ndarray, np.ndarray]],
    catalogue: Catalogue,
    text_ND: Tensor,
    settings: EvaluationConfig,
) -> dict[str, np.ndarray]:
    gammas = sorted({settings.gamma, *settings.sweep})
    matrices = {gamma: np.zeros((CLASSES, CLASSES), dtype=np.int64) for gamma in gammas}
    shown = {}
    for name in names:
        image, truth = read(name)
        (logits,) = image_logits(student, [image], text_ND, settings)
        ranked = rank(logits, catalogue.unseen_ids)
        for gamma in gammas:
            predicted = ranked.predict(gamma).cpu().numpy()
            labelled = truth != IGNORE
            pairs = truth[labelled].astype(np.int64) * CLASSES + predicted[labelled]
            matrices[gamma] += np.bincount(pairs, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)
            if gamma == settings.gamma:
                shown[f"prediction/{name}"] = predicted.astype(np.uint8)
    return shown | {"confusion": matrices[settings.gamma]}
