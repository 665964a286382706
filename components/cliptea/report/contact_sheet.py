"""A page about a data set for `cliptea data check`: what is wrong, its classes, and some images with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from cliptea.data.colours import class_colour
from cliptea.data.datasets import Dataset
from cliptea.data.inspection import Inspection, sampled
from cliptea.data.sample import decode_image
from cliptea.errors import DataError
from cliptea.messages import printable
from cliptea.report import figures

__all__ = ["class_rows", "contact_sheet"]

PICTURES = 24  # of each part


def class_rows(found: Inspection) -> list[dict[str, Any]]:
    """For each class its name, colour, whether it is unseen, and by part its share of pixels and number of images."""
    rows = []
    for index, name in enumerate(found.catalogue.classes):
        parts = {
            part: {
                "share": float(one.counts.pixels[index] / max(1, one.counts.pixels.sum())),
                "images": one.counts.shown_in[index],
            }
            for part, one in found.parts.items()
        }
        unseen = name in found.catalogue.unseen
        rows.append({"id": index, "name": name, "colour": class_colour(index), "unseen": unseen, "parts": parts})
    return rows


def contact_sheet(title: str, found: Inspection, dataset: Dataset, names: dict[str, list[str]]) -> str:
    """The page as HTML. It is one file that loads and runs nothing.

    Args:
        title: names the data set.
        names: the images of each part.
    """
    template = resources.files("cliptea.report").joinpath("contact_sheet.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(
        title=title,
        found=found,
        classes=class_rows(found),
        pictures={part: list(_pictures(dataset, part, ids)) for part, ids in names.items()},
        shown=PICTURES,
    )
    return "\n".join(map(printable, text.split("\n")))


def _pictures(dataset: Dataset, part: str, names: list[str]) -> Iterator[dict[str, str]]:
    for name in sampled(names, PICTURES):
        try:
            sample = dataset.read(part, name)
            photo = figures.photo(decode_image(sample.image, name))
        except DataError:  # it is among the errors of the page
            continue
        yield {
            "name": name,
            "photo": figures.data_uri(photo),
            "labels": figures.data_uri(figures.label_map(sample.labels)),
        }
