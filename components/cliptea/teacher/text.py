"""Text features, which are the classifiers of seen classes in training and of all classes in evaluation.

A class has the mean of the normalised features of its prompts, see `cliptea.teacher.templates`, normalised again. A
class with several names has the mean of their features, normalised again. The features can also come from a file. The
teacher's text tower then checks whether they match the class list. `make_texts` puts the features into the store, and
`load_text` reads them. Those of the seen classes are also an object of their own, which is all that training reads.

Shape legend: N classes, S seen classes, D joint width, T templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cliptea import device, progress
from cliptea.config import Config, Templates
from cliptea.errors import TeacherError, refuse_system
from cliptea.files import oddity
from cliptea.finite import require_finite
from cliptea.manifest import Contents, Manifest, Output, make_once, put_immutable, read_object
from cliptea.storage import Store, fetch
from cliptea.teacher.clip import Teacher, open_teacher
from cliptea.teacher.clip_files import weights_sha256
from cliptea.teacher.demo_clip import demo_words, teacher_weights
from cliptea.teacher.outputs import TextSet
from cliptea.teacher.templates import list_templates

__all__ = ["load_seen_text", "load_text", "make_texts", "read_text_features", "require_different", "text_features"]

TEXT, SEEN_TEXT = "text.safetensors", "text_seen.safetensors"  # names of the objects in the manifest
SUFFIX = ".safetensors"
NORM_TOLERANCE = 0.01
SAME = 1e-5  # distance of unit vectors below which two names are the same to a text tower
EQUAL = 0.9999  # cosine above which two rows are equal; at most 0.98 for different classes with ViT-B/16
RELATED = 0.6  # cosine with the nearest class: above 0.75 within one CLIP, near 0 between two
# A row belongs to another class if its cosine with that class is larger by this than with its own class. Within
# ViT-B/16, rows from other prompts are nearest to their own class by at least 0.03.
MARGIN = 0.02


def load_text(store: Store, text: Manifest) -> Tensor:
    """(N, D) float32 unit-norm text features in the order of the evaluation set's classes.

    Raises:
        NotFinite: a feature is NaN or infinite.
        StorageError: the object is missing or damaged.
    """
    return _load(store, text, TEXT)


def load_seen_text(store: Store, text: Manifest) -> Tensor:
    """(S, D) float32 unit-norm text features of the seen classes of the training data set, by seen index.

    Raises: as `load_text`.
    """
    return _load(store, text, SEEN_TEXT)


def _load(store: Store, text: Manifest, name: str) -> Tensor:
    rows = safetensors.torch.load(read_object(store, text.objects[name]))["text"]
    require_finite({"a text feature": rows}, store.uri(text.objects[name].key), "delete it and run again")
    return rows


def make_texts(store: Store, config: Config, prompts: dict[Output, TextSet]) -> dict[Output, Manifest]:
    """Create text features of class lists, from a file or with the teacher's text tower."""
    device.prepare()
    weights, demo = teacher_weights(store, config), config.teacher.source.kind == "demo"
    teacher, sha256 = open_teacher(weights, config.teacher), weights_sha256(weights) if demo else ""
    return {
        output: make_once(store, output, partial(_make_text, store, teacher, prompt, output.prefix, sha256))[0]
        for output, prompt in prompts.items()
    }


def _make_text(store: Store, teacher: Teacher, prompt: TextSet, prefix: str, demo_sha256: str) -> Contents:
    """Make the features of a class list. The demo's CLIP has a sha256, others have ""."""
    strange = [name for name in prompt.names if demo_sha256 and not set(name.lower().split()) <= demo_words()]
    if strange:
        progress.warn(f"the demo's teacher does not know {', '.join(strange)}, so results for these are meaningless")
    if prompt.text_features is None:
        text_ND = text_features(teacher, prompt.classes, prompt.templates, prompt.synonyms)
        require_different(text_ND, prompt.classes)
    else:
        text_ND = read_text_features(prompt.text_features, teacher, prompt.classes)
    files = {TEXT: text_ND.cpu()}
    if prompt.unseen:
        files[SEEN_TEXT] = files[TEXT][[name not in prompt.unseen for name in prompt.classes]]
    objects = {}
    for name, rows in files.items():
        stem, data = name.removesuffix(SUFFIX), safetensors.torch.save({"text": rows.contiguous()})
        objects[name] = put_immutable(store, f"{prefix}/{stem}", SUFFIX, data)  # others may be made at the same time
    return Contents(objects, {"classes": prompt.classes, "unknown_words": strange, "clip_sha256": demo_sha256})


def require_different(text_ND: Tensor, classes: Sequence[str]) -> None:
    """Reject names that are the same to this CLIP, such as long ones that only differ beyond the text that it reads."""
    # Distances by matrix products, the default for many rows, are wrong by more than SAME.
    distances_NN = torch.cdist(text_ND, text_ND, compute_mode="donot_use_mm_for_euclid_dist")
    twins = (distances_NN < SAME).triu(1).nonzero().tolist()
    if twins:
        first, second = (classes[index] for index in twins[0])
        raise TeacherError(
            f"the class names {first!r} and {second!r} have the same text embedding",
            "names that CLIP can tell apart",
            "rename one of them",
        )


def text_features(
    teacher: Teacher, classes: Sequence[str], templates: Templates, synonyms: Mapping[str, Sequence[str]] | None = None
) -> Tensor:
    """(N, D) float32 unit-norm features of classes.

    Args:
        synonyms: class -> its names, whose features are averaged and normalised again; the others have their own name.

    Raises:
        NotFinite: a feature is NaN or infinite; the error names the class.
    """
    rows, prompts = {}, list_templates(templates)
    for one in classes:
        named = []
        for name in (synonyms or {}).get(one, [one]):
            features_TD = teacher.encode_text([prompt.replace("{}", name) for prompt in prompts])
            named.append(torch.nn.functional.normalize(features_TD.mean(0), dim=0))
        several = len(named) > 1
        row_D = torch.nn.functional.normalize(torch.stack(named).mean(0), dim=0) if several else named[0]
        rows[f"the text feature of {one!r}"] = row_D
    require_finite(rows, "the teacher's text tower", "check teacher.weights")
    return torch.stack(list(rows.values()))


def read_text_features(source: str, teacher: Teacher, classes: Sequence[str]) -> Tensor:
    """Read text features of a class list from a file, and compare them with the teacher's text tower.

    Only the tower can show which class a row belongs to. If it belongs to another CLIP than the file, or has random
    weights, a file for another data set or order with the same number of rows is accepted with a warning.

    Args:
        source: path, file:// or s3:// URI of a .npy file, (N, D) float16, float32 or float64, its rows in the order of
            `classes`.
        teacher: the features must be in the space of this teacher.
        classes: the N class names.

    Returns:
        (N, D) float32 unit-norm features.

    Raises:
        TeacherError: the file has another content, or rows of other classes.
        StorageError: the file does not exist.
    """
    features_ND = _normalise(_read(source, len(classes), teacher.dim), source, classes)
    # One prompt per class is enough to check a file with any prompts, and 15 times faster than all prompts.
    _check_classes(features_ND, text_features(teacher, classes, "single").cpu(), source, classes)
    return features_ND


def _read(source: str, rows: int, dim: int) -> Tensor:
    file = fetch(source)
    if odd := oddity(file):  # opening a named pipe would wait forever
        raise TeacherError(f"the text features {source} are {odd}", "a .npy file of numbers")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)  # a damaged shape must not take all memory
    except Exception as error:  # damaged files make numpy raise almost any error
        refuse_system(error, f"cannot read the text features {source}")
        raise TeacherError(f"the text features {source} cannot be read", "a .npy file of numbers") from error
    expected = f"({rows}, {dim}) float16 or float32: one row for each class, as wide as the teacher's features"
    if not isinstance(array, np.ndarray):
        raise TeacherError(f"the text features {source} hold several arrays", f"a .npy file, {expected}")
    if array.shape != (rows, dim) or array.dtype.kind != "f":
        raise TeacherError(f"the text features {source} are {array.shape} {array.dtype}", expected)
    with np.errstate(over="ignore"):
        features_ND = torch.from_numpy(array.astype(np.float32))  # float64 may become infinite
    if not torch.isfinite(features_ND.norm(dim=1)).all():
        raise TeacherError(f"the text features {source} are not all finite", expected)
    return features_ND


def _normalise(features_ND: Tensor, source: str, classes: Sequence[str]) -> Tensor:
    norms_N = features_ND.norm(dim=1)
    if norms_N.min() == 0:
        raise TeacherError(
            f"the row for {classes[int(norms_N.argmin())]!r} in {source} is zero", "a text feature for every class"
        )
    if (norms_N - 1).abs().max() > NORM_TOLERANCE:
        progress.warn(
            f"rows of {source} have norms from {norms_N.min():.3g} to {norms_N.max():.3g}, not 1; make sure "
            "that these are text features; they are normalised now"
        )
    unit_ND = features_ND / norms_N[:, None]
    twins = (torch.triu(unit_ND @ unit_ND.T, 1) > EQUAL).nonzero().tolist()
    if twins:
        first, second = (classes[index] for index in twins[0])
        raise TeacherError(f"the rows for {first!r} and {second!r} in {source} are equal", "a distinct row for each")
    return unit_ND


def _check_classes(features_ND: Tensor, tower_ND: Tensor, source: str, classes: Sequence[str]) -> None:
    """Compare a file's rows with the tower's features of the same classes."""
    cosines_NN = features_ND @ tower_ND.T  # [row of the file, class of the tower]
    best_N, nearest_N = cosines_NN.max(1)
    nearest = [classes[index] for index in nearest_N.tolist()]
    if best_N.median() < RELATED:
        progress.warn(
            f"{source} holds text features of another CLIP than the teacher (cosine with its own at best "
            f"{best_N.max():.2f}): students learn from one CLIP and are evaluated with another, "
            "and the order of the rows cannot be checked against the class list"
        )
        return
    rows_N = torch.arange(len(classes))
    elsewhere_N = best_N - cosines_NN.diagonal() > MARGIN
    # If the row is also the best one for that class, the rows have another order. If not, the feature is just unusual.
    mutual_N = cosines_NN.argmax(0)[nearest_N] == rows_N
    for row in (elsewhere_N & mutual_N).nonzero().flatten().tolist():
        raise TeacherError(
            f"row {row + 1} of the text features {source} is {nearest[row]!r} to the teacher (cosine "
            f"{best_N[row]:.2f}), not {classes[row]!r} ({cosines_NN[row, row]:.2f})",
            "rows in the order of the class list: " + ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else ""),
            "check whether the file is for another data set or order",
        )
    for row in elsewhere_N.nonzero().flatten().tolist()[:1]:
        progress.warn(
            f"row {row + 1} of the text features {source}, {classes[row]!r}, is nearer to {nearest[row]!r} "
            f"(cosine {best_N[row]:.2f}) than to its own class ({cosines_NN[row, row]:.2f})"
        )
