"""Class embeddings from the text tower of a model's teacher, for class names that the model does not know.

Shape legend: F names; P probed classes; D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from cliptea import progress
from cliptea.errors import ClipteaError, ConfigError
from cliptea.segment.model_files import TeacherSource
from cliptea.segment.segmenter import Segmenter
from cliptea.storage import open_store
from cliptea.teacher.clip import Teacher, load_teacher
from cliptea.teacher.clip_files import weights_sha256
from cliptea.teacher.demo_clip import demo_words, stored_weights
from cliptea.teacher.text import text_features
from cliptea.weights_source import WeightsSource

__all__ = ["embed_names"]

SAME_TOWER = 0.9  # cosine of embeddings: 0.95 for the same CLIP with other prompts, about 0 for another CLIP
PROBES = 8  # classes whose embeddings are compared
DEFAULT = TeacherSource(weights="", model="ViT-B-16-quickgelu", templates="single", crop=224)


def embed_names(
    model: Segmenter, names: Sequence[str], text_weights: str | None, synonyms: Mapping[str, Sequence[str]]
) -> Tensor:
    """(F, D) float32 unit-norm embeddings. Warns if the text tower is not the one that the model was trained with.

    Args:
        model: the model, with the embeddings of its own classes.
        names: F class names.
        text_weights: CLIP weights; None: those that the model was trained with.
        synonyms: class -> its names, if it has others than its own.

    Raises:
        ConfigError: the text tower is not available, or has another width.
    """
    source = model.description.teacher or DEFAULT
    teacher = _tower(source, text_weights, names)
    if teacher.dim != model.description.dim:
        raise ConfigError(
            f"the text tower has {teacher.dim} features, but the model has {model.description.dim}",
            "the CLIP that the model was trained with",
        )
    _check_tower(model, teacher, source)
    if text_weights is None and WeightsSource.of(source.weights).kind == "demo":
        _warn_of_words([word for name in names for word in synonyms.get(name, [name])])
    return text_features(teacher, names, source.templates, synonyms)


def _tower(source: TeacherSource, text_weights: str | None, names: Sequence[str]) -> Teacher:
    try:
        return load_teacher(text_weights or _recorded(source), source.model, source.crop)
    except ClipteaError as error:
        raise ConfigError(
            f"the model does not know {', '.join(map(repr, names))}, "
            f"and its text tower is not available ({error.what})",
            "class names that the model knows",
            "or set --text-weights to the CLIP that it was trained with",
        ) from error


def _recorded(source: TeacherSource) -> str:
    """The weights that the model was trained with."""
    if source.demo:
        return stored_weights(open_store(), source.demo)
    if not source.weights:
        raise ConfigError("the model does not record which CLIP it was trained with")
    if source.sha256 and weights_sha256(source.weights) != source.sha256:
        raise ConfigError(f"{source.weights} has changed since training: its sha256 is different")
    return source.weights


def _check_tower(model: Segmenter, teacher: Teacher, source: TeacherSource) -> None:
    own_PD = model.text_ND[:PROBES].cpu()
    tower_PD = text_features(teacher, model.description.classes[:PROBES], source.templates, source.synonyms).cpu()
    alike = float((own_PD * tower_PD).sum(1).median())
    if alike < SAME_TOWER:
        progress.warn(
            f"the text tower is not the one that the model was trained with (cosine of their class embeddings "
            f"{alike:.2f}), so results for names that the model does not know may be meaningless"
        )


def _warn_of_words(names: Sequence[str]) -> None:
    strange = sorted({word for name in names for word in name.lower().split()} - demo_words())
    if strange:
        progress.warn(
            f"the demo's text tower does not know {', '.join(map(repr, strange))}, so results for these are meaningless"
        )
