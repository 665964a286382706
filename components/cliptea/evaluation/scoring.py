"""Predictions of a student, their scores, attention maps, and features of training images. CLIP is not loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cliptea import device, progress
from cliptea.config import Config, EvaluationConfig
from cliptea.data.catalogue import Catalogue
from cliptea.data.records import chosen_images, read_array, read_image, read_view, record_name
from cliptea.data.shards import ShardReader
from cliptea.evaluation.metrics import confusion, per_class_iou, score
from cliptea.evaluation.results import Scored
from cliptea.finite import require_finite
from cliptea.method import glm, plm
from cliptea.models.student import Student
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import rank
from cliptea.segment.normalise import normalise
from cliptea.segment.stream import Loaded, each_image
from cliptea.segment.training_features import FEWEST_IMAGES, TrainingFeatures, image_feature

__all__ = ["attention_maps", "fit_training_features", "score_student"]

MOST_TRAINING_IMAGES = 400


def score_student(
    student: Student,
    names: Sequence[str],
    read: Callable[[str], tuple[np.ndarray, np.ndarray]],
    catalogue: Catalogue,
    text_ND: Tensor,
    settings: EvaluationConfig,
    label: str,
    devices: Sequence[torch.device] | None = None,
) -> tuple[Scored, dict[str, np.ndarray]]:
    """Predict every image of an evaluation set once, and compute the scores for each gamma.

    Args:
        student: in eval mode.
        names: of the images.
        read: returns the image (H, W, 3) uint8 and the train ids (H, W) uint8 of a name. It is called in threads.
        catalogue: the set's classes.
        text_ND: unit-norm text features of all of them, float32, on the student's device.
        settings: evaluation settings with the gamma of this set and the images for figures.
        label: name of the evaluation set, for the progress bar.
        devices: which share the images; the first is the student's. None: the student's alone.

    Raises:
        NotFinite: a logit is NaN or infinite; the error names the image.

    Returns:
        The scores, and a dictionary of arrays. `confusion` is (N, N) int64 pixels with rows for true classes, and
        `prediction/IMAGE` is (H, W) uint8 train ids for each image in the figures.
    """
    gammas = sorted({settings.gamma, *settings.sweep})
    number = len(catalogue.classes)
    matrices = {gamma: np.zeros((number, number), dtype=np.int64) for gamma in gammas}
    arrays: dict[str, np.ndarray] = {"confusion": matrices[settings.gamma]}
    shown = set(chosen_images(names, settings.figures))

    def load(name: str) -> Loaded[str]:
        return Loaded(name, *read(name))

    def look(loaded: Loaded[str], logits: ImageLogits | None) -> tuple[str, np.ndarray, np.ndarray | None]:
        """The confusion matrix of an image for each gamma (G, N, N), and its prediction if it is shown."""
        assert logits is not None
        ranked = rank(logits, catalogue.unseen_ids)
        truth_HW = torch.from_numpy(np.asarray(loaded.rest)).to(ranked.lead.device)
        predicted = {gamma: ranked.predict(gamma) for gamma in gammas}
        matrices_GNN = torch.stack([confusion(truth_HW, predicted[gamma], number) for gamma in gammas])
        figure = predicted[settings.gamma].cpu().numpy().astype(np.uint8) if loaded.item in shown else None
        return loaded.item, matrices_GNN.cpu().numpy(), figure

    looked = each_image(student, text_ND, settings, names, load, look, "image {}".format, devices)
    with progress.bar(f"evaluating {label}", total=len(names), unit="image") as bar:
        for name, matrices_GNN, figure in looked:
            for gamma, matrix_NN in zip(gammas, matrices_GNN, strict=True):
                matrices[gamma] += matrix_NN
            if figure is not None:
                arrays[f"prediction/{name}"] = figure
            bar.update(1)
    iou_N = per_class_iou(arrays["confusion"])
    scored = Scored(
        scores=score(arrays["confusion"], catalogue.unseen_ids),
        per_class={
            name: None if math.isnan(iou) else iou for name, iou in zip(catalogue.classes, iou_N.tolist(), strict=True)
        },
        sweep={f"{gamma:g}": score(matrices[gamma], catalogue.unseen_ids) for gamma in gammas},
    )
    return scored, arrays


@torch.inference_mode()
def attention_maps(
    student: Student, images: ShardReader, cls: ShardReader, names: Sequence[str], config: Config
) -> dict[str, np.ndarray]:
    """Attention of eq. 1 on the first view of training images, whose CLS tokens are stored (the paper's Figure 5).

    It is that of training: with the student's own way to pool, and without padding.

    Args:
        student: in eval mode, on `device.best()`.
        images, cls: train shards and CLS tokens.
        names: of the images.
        config: of the student. It also has the settings of the views for which the tokens were computed.

    Returns:
        `attention/NAME`: (h, w) float32 for each image.
    """
    maps, method = {}, config.method
    for name in names:
        view = read_view(images, name, 0, config.teacher, config.data.seed)
        valid = torch.from_numpy(view.valid)
        pixels = (normalise(torch.from_numpy(view.image.copy()).permute(2, 0, 1)) * valid)[None].to(device.best())
        cls_BD = torch.from_numpy(read_array(cls, record_name(name, 0)))[None].to(device.best())
        features_BDhw = student(pixels)
        valid_Bhw = plm.reduce_labels(valid[None].to(device.best()), tuple(features_BDhw.shape[2:]))
        token = glm.attend(cls_BD, features_BDhw, valid_Bhw, method.global_token, method.unit_query)
        weights_hw = token.weights_Bhw[0].cpu()
        require_finite({"an attention weight": weights_hw}, f"image {name}")
        maps[f"attention/{name}"] = weights_hw.numpy()
    return maps


def fit_training_features(
    student: Student,
    images: ShardReader,
    dim: int,
    settings: EvaluationConfig,
    devices: Sequence[torch.device] | None = None,
) -> TrainingFeatures | None:
    """The distribution of the student's features over up to 400 training images, or None.

    There is none if the images are too few, or in the mode `slide`, which would need each feature at the size of the
    image. The images, spread evenly over all, are seen as those of an evaluation set. Their labels are not used.

    Args:
        student: in eval mode, on `device.best()`.
        images: train shards.
        dim: D, the number of the student's features.
        settings: evaluation settings.
        devices: which share the images; the first is the student's. None: the student's alone.
    """
    if len(images) < FEWEST_IMAGES or settings.mode == "slide":
        return None
    number = min(len(images), MOST_TRAINING_IMAGES)
    names = [images.name(place) for place in np.linspace(0, len(images) - 1, number).astype(int).tolist()]
    axes_DD = torch.eye(dim, device=device.best())  # as text features, they make logits equal to features

    def load(name: str) -> Loaded[str]:
        return Loaded(name, read_image(images, name))

    def look(loaded: Loaded[str], along: ImageLogits | None) -> np.ndarray:
        assert along is not None
        return image_feature(along).cpu().numpy()

    features = []
    looked = each_image(student, axes_DD, settings, names, load, look, "image {}".format, devices)
    with progress.bar("measuring training images", total=number, unit="image") as bar:
        for feature_D in looked:
            features.append(feature_D)
            bar.update(1)
    return TrainingFeatures.fit(np.stack(features))
