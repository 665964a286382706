"""Class embeddings for any class names, from the model if it knows them, or else from the text tower of its teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch

from cliptea.data.catalogue import MOST_NAMES, as_text, require_distinct
from cliptea.errors import ConfigError
from cliptea.names import as_known
from cliptea.segment.segmenter import ClassSet, Segmenter

__all__ = ["choose_classes", "text_digests"]


def choose_classes(
    model: Segmenter,
    names: Sequence[str] | None,
    text_weights: str | None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> ClassSet:
    """The classes to segment. Gamma is the model's own if it knows all names, or else 0, as no suitable value is known.

    Args:
        names: None for the model's own list.
        text_weights: CLIP weights for names that the model does not know; None: those that it was trained with.
        synonyms: class -> its names, of a data set. A class with other names than in training is one that the model
            does not know. None for names that a user gives, which may be those of known classes in capitals.

    Raises:
        ConfigError: there are more names than a mask has ids, or two are the same to CLIP; or a name is not known, and
            the text tower is not available or has another width.
        TeacherError: two names are the same to the text tower.
    """
    if names is not None and len(names) > MOST_NAMES:
        raise ConfigError(
            f"{len(names)} class names are given", f"at most {MOST_NAMES}, because a mask has ids 0 to {MOST_NAMES - 1}"
        )
    require_distinct(names or ())
    known = model.description.classes
    if names is not None:
        names = as_known(names, known)
        if synonyms is None:
            texts = {as_text(name): name for name in reversed(known)}
            names = [name if name in known else texts.get(as_text(name), name) for name in names]
    synonyms, trained = synonyms or {}, model.description.teacher.synonyms if model.description.teacher else {}
    new = {name for name, others in synonyms.items() if list(others) != trained.get(name, [name])}
    free = [name for name in names or () if name not in known or name in new]
    if names is None or not free:
        return model.known(names)
    from cliptea.serving.text_tower import embed_names  # open_clip takes as long to import as torch
    from cliptea.teacher.text import require_different

    rows = dict(zip(known, model.text_ND, strict=True))
    rows |= dict(zip(free, embed_names(model, free, text_weights, synonyms).to(model.text_ND.device), strict=True))
    text_ND = torch.stack([rows[name] for name in names])
    require_different(text_ND, names)
    return ClassSet(list(names), text_ND, torch.zeros(len(names), device=text_ND.device))


def text_digests(classes: ClassSet) -> dict[str, str]:
    """The sha256 of each class's embedding, as little-endian float32 numbers."""
    rows_ND = classes.text_ND.float().cpu().numpy().astype("<f4")
    return {
        name: hashlib.sha256(row_D.tobytes()).hexdigest() for name, row_D in zip(classes.names, rows_ND, strict=True)
    }
