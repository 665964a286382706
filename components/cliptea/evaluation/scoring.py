"""Predictions of a student on val shards, their scores, and attention maps. CLIP is not loaded for them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import safetensors.torch
import torch

from cliptea import device, progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.data.records import LABEL, image_extension, read_array, read_view, record_name
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.evaluation.metrics import confusion, per_class_iou, score
from cliptea.evaluation.tasks import EvaluationTask, chosen_images
from cliptea.manifest import Manifest, publish, put_object, read_object
from cliptea.method import glm
from cliptea.models.student import Student
from cliptea.segment.inference import class_logits
from cliptea.segment.masks import rank
from cliptea.segment.normalise import normalise
from cliptea.segment.segmenter import load_student
from cliptea.storage import Store
from cliptea.teacher.cache import TeacherCache
from cliptea.teacher.stored_text import load_text

__all__ = ["score_student"]


def score_student(
    store: Store, prefix: str, config: Config, task: EvaluationTask, teacher: TeacherCache, model: Manifest
) -> Manifest:
    """Predict every val image of an evaluation set once, and keep scores at each gamma and the chosen pictures.

    Args:
        store: where shards, model and results are.
        prefix: KIND/FINGERPRINT of the results.
        config: the variant's settings.
        task: the evaluation set.
        teacher: for the stored CLS tokens that attention is drawn from.
        model: manifest of the trained student.
    """
    device.prepare()
    catalogue = Catalogue.model_validate(task.split.info["catalogue"])
    student = _load_student(store, model)
    text_ND = load_text(store, task.text).to(device.best())
    reader = ShardReader(store, task.split.objects, "val")
    gammas = sorted({task.gamma, *config.evaluation.sweep})
    number = len(catalogue.classes)
    matrices = {gamma: np.zeros((number, number), dtype=np.int64) for gamma in gammas}
    pictures: dict[str, np.ndarray] = {}
    shown = set(chosen_images(reader.names, config.evaluation.figures))
    with progress.bar(f"evaluating {task.label}", total=len(reader.names), unit="image") as bar:
        for name in reader.names:
            image = decode_image(reader.read(name, image_extension(reader, name)), name)
            truth = decode_labels(reader.read(name, LABEL), name)
            ranked = rank(class_logits(student, image, text_ND, config.evaluation), catalogue.unseen_ids)
            for gamma in gammas:
                predicted = ranked.predict(gamma).cpu().numpy()
                matrices[gamma] += confusion(truth, predicted, number)
                if gamma == task.gamma and name in shown:
                    pictures[f"prediction/{name}"] = predicted.astype(np.uint8)
            bar.update(1)
    if task.label == config.data.dataset:
        pictures |= _attention(store, student, config, task.split, teacher)
    chosen = matrices[task.gamma]
    info = {
        "scores": score(chosen, catalogue.unseen_ids).model_dump(),
        "per_class": _by_name(per_class_iou(chosen), catalogue),
        "sweep": {f"{gamma:g}": score(matrices[gamma], catalogue.unseen_ids).model_dump() for gamma in gammas},
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"confusion": chosen, **pictures}
    np.savez_compressed(buffer, **arrays)
    objects = {"figures.npz": put_object(store, f"{prefix}/figures.npz", buffer.getvalue())}
    kind, _, fp = prefix.partition("/")
    return publish(store, Manifest(kind=kind, fingerprint=fp, objects=objects, info=info))


def _by_name(iou_N: np.ndarray, catalogue: Catalogue) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else float(value) for name, value in zip(catalogue.classes, iou_N, strict=True)
    }


def _load_student(store: Store, model: Manifest) -> Student:
    weights = safetensors.torch.load(read_object(store, model.objects["model.safetensors"]))
    return load_student(model.info["backbone"], int(model.info["dim"]), weights).to(device.best())


@torch.inference_mode()
def _attention(
    store: Store, student: Student, config: Config, split: Manifest, teacher: TeacherCache
) -> dict[str, np.ndarray]:
    """Attention of eq. 1 on the first training views, whose CLS tokens are stored (the paper's Figure 5)."""
    images, tokens = ShardReader(store, split.objects, "train"), ShardReader(store, teacher.tokens.objects, "cls")
    maps = {}
    for name in chosen_images(images.names, config.evaluation.figures):
        view = read_view(images, name, 0, config.teacher, config.data.seed)
        valid = torch.from_numpy(view.valid)
        pixels = (normalise(torch.from_numpy(view.image.copy()).permute(2, 0, 1)) * valid)[None].to(device.best())
        cls_BD = torch.from_numpy(read_array(tokens, record_name(name, 0)))[None].to(device.best())
        maps[f"attention/{name}"] = glm.attend(cls_BD, student(pixels)).weights_Bhw[0].cpu().numpy()
    return maps
