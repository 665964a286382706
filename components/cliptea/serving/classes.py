"""Class embeddings for any class names, from the model if it knows them, or else from the text tower of its teacher.

Shape legend: N classes; D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliptea import progress
from cliptea.errors import ClipteaError, ConfigError
from cliptea.segment.segmenter import ClassSet, Segmenter, TeacherSource
from cliptea.storage import open_store
from cliptea.teacher.clip import Teacher, load_teacher
from cliptea.teacher.demo_clip import demo_words
from cliptea.teacher.text import text_features
from cliptea.weights_source import WeightsSource

__all__ = ["choose_classes"]

SAME_TOWER = 0.9  # cosine of embeddings: 0.95 for the same CLIP with other prompts, about 0 for another CLIP
PROBES = 8  # classes whose embeddings are compared
DEFAULT = TeacherSource(weights="", model="ViT-B-16-quickgelu", templates="single", crop=224)


def choose_classes(model: Segmenter, names: Sequence[str] | None, text_weights: str | None) -> ClassSet:
    """The classes to segment. Gamma is the model's own if it knows all names, or else 0, as no suitable value is known.

    Args:
        names: None for the model's own list.
        text_weights: CLIP weights for names that the model does not know; None: those that it was trained with.

    Raises:
        ConfigError: a name is not known, and the text tower is not available or has another width.
    """
    known = model.description.classes
    free = [name for name in names or () if name not in known]
    if names is None or not free:
        return model.known(names)
    source = model.description.teacher or DEFAULT
    teacher = _tower(source, text_weights, free)
    if teacher.dim != model.description.dim:
        raise ConfigError(
            f"the text tower has {teacher.dim} features, but the model has {model.description.dim}",
            "the CLIP that the model was trained with",
        )
    _check_tower(model, teacher, source.templates)
    if text_weights is None and WeightsSource.of(source.weights).kind == "demo":
        _warn_of_words(free)
    rows = dict(zip(known, model.text_ND, strict=True))
    free_FD = text_features(teacher, free, source.templates).to(model.text_ND.device)
    rows |= dict(zip(free, free_FD, strict=True))
    text_ND: Tensor = torch.stack([rows[name] for name in names])
    return ClassSet(list(names), text_ND, torch.zeros(len(names), device=text_ND.device))


def _tower(source: TeacherSource, text_weights: str | None, free: list[str]) -> Teacher:
    try:
        weights = text_weights or (open_store().uri(f"demo-teacher/{source.demo}") if source.demo else source.weights)
        if not weights:
            raise ConfigError("the model does not record which CLIP it was trained with")
        return load_teacher(weights, source.model, source.crop)
    except ClipteaError as error:
        raise ConfigError(
            f"the model does not know {', '.join(map(repr, free))}, and its text tower is not available ({error.what})",
            "class names that the model knows",
            "or set --text-weights to the CLIP that it was trained with",
        ) from error


def _check_tower(model: Segmenter, teacher: Teacher, templates: str) -> None:
    own_PD = model.text_ND[:PROBES].cpu()
    tower_PD = text_features(teacher, model.description.classes[:PROBES], templates).cpu()
    alike = float((own_PD * tower_PD).sum(1).median())
    if alike < SAME_TOWER:
        progress.warn(
            f"the text tower is not the one that the model was trained with (cosine of their class embeddings "
            f"{alike:.2f}), so results for names that the model does not know may be meaningless"
        )


def _warn_of_words(free: list[str]) -> None:
    strange = sorted({word for name in free for word in name.lower().split()} - demo_words())
    if strange:
        progress.warn(
            f"the demo's text tower does not know {', '.join(map(repr, strange))}, so results for these are meaningless"
        )
