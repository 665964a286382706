"""A mask is the argmax of the evaluation's own logits, however large the image is."""

import shutil

import numpy as np
import pytest
import torch
from whole_logits import class_logits

from cliptea.errors import ConfigError, StorageError
from cliptea.segment.enlarge import Logits
from cliptea.segment.masks import rank
from cliptea.segment.segmenter import open_segmenter


def picture(height, width, seed=0):
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
    return blocks.repeat(7, 0).repeat(7, 1)[:height, :width]


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (200, 120), (1, 1)])
def test_a_mask_is_what_evaluation_predicts(model, size):
    image = picture(*size)
    logits = class_logits(model.student, image, model.text_ND, model.description.evaluation)
    assert torch.equal(logits.argmax(0), rank(Logits(logits, size, size, size), [3]).predict(0.0))
    logits[3] += 0.02
    expected = logits.argmax(0).cpu().numpy()
    mask = model.mask(image, model.known())
    assert mask.dtype == np.uint8
    assert (mask == expected).all()
    if size == (200, 120):
        assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_images_of_one_padded_size_go_through_the_network_together(model, mode):
    evaluation = model.description.evaluation.model_copy(update={"mode": mode, "window": 32, "stride": 24})
    model.description = model.description.model_copy(update={"evaluation": evaluation})
    sizes = [(64, 96), (128, 190), (65, 95), (60, 90)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    assert {model.padded_size(image) for image in images} == {(64, 96)}
    seen = []
    model.student.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    masks = list(model.masks(images, model.known()))
    if mode == "whole":
        assert seen == [4]
    for image, mask in zip(images, masks, strict=True):
        assert mask.shape == image.shape[:2]
        assert (mask == model.mask(image, model.known())).mean() > 0.9999  # sums are rounded in another order
    assert len({mask.tobytes() for mask in masks}) == 4


def test_some_of_the_classes_keep_their_embeddings_and_gamma(model):
    chosen = model.known(["zebra", "sky"])
    assert torch.equal(chosen.text_ND, model.text_ND[[3, 0]])
    assert chosen.gamma_N.tolist() == pytest.approx([0.02, 0.0])


def test_a_class_that_the_model_does_not_know_is_named(model):
    with pytest.raises(ConfigError, match="does not know 'sofa', 'dog'; expected names from sky, grass, cow, zebra"):
        model.known(["sky", "sofa", "dog"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.json", b"{}"), ("model.safetensors", b"cut"), ("text.safetensors", None), ("model.json", b"\xff")],
)
def test_a_damaged_model_is_one_line(model_folder, tmp_path, name, content):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(StorageError, match="does not hold a cliptea model"):
        open_segmenter(folder)
