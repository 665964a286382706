"""The teacher's tokens and text features against open_clip's own forward pass, on random weights."""

import json

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from cliptea.errors import TeacherError
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.text import TEMPLATES, text_features

SIZE, CROP, PATCH = 32, 48, 8
MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(MODEL["embed_dim"], MODEL["vision_cfg"], MODEL["text_cfg"])
    safetensors.torch.save_file(model.state_dict(), path / "open_clip_model.safetensors")
    described = {"model_cfg": MODEL, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (path / "open_clip_config.json").write_text(json.dumps(described))
    return path


def reference(folder):
    model = open_clip.create_model(f"local-dir:{folder}", force_image_size=CROP).eval()
    images = torch.randint(0, 256, (3, 3, CROP, CROP), dtype=torch.uint8)
    normal = (images.numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    return model, images, torch.from_numpy(normal).float()


def test_the_cls_token_is_open_clips_image_feature(folder):
    model, images, normal = reference(folder)
    teacher = load_teacher(str(folder), "unused", CROP)
    cls, dense = teacher.tokens(images, torch.ones(3, CROP, CROP, dtype=torch.bool))
    with torch.no_grad():
        torch.testing.assert_close(cls, model.encode_image(normal), rtol=1e-4, atol=1e-5)
    side = CROP // PATCH
    assert (teacher.dim, tuple(teacher.grid), dense.shape) == (24, (side, side), (3, 24, side, side))


def test_dense_tokens_are_projected_patch_tokens_in_image_order(folder):
    """The patch tokens are taken by a hook behind ln_post, and projected here."""
    model, images, normal = reference(folder)
    seen = []
    model.visual.ln_post.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model.encode_image(normal)
    wanted = (seen[0][:, -((CROP // PATCH) ** 2) :] @ model.visual.proj).detach()
    _, dense = load_teacher(str(folder), "unused", CROP).tokens(images, torch.ones(3, CROP, CROP, dtype=torch.bool))
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), wanted, rtol=1e-4, atol=1e-5)


def test_padding_is_zero_behind_the_normalisation(folder):
    """Whatever lies under the padding, the tokens are the same."""
    _, images, _ = reference(folder)
    valid = torch.ones(3, CROP, CROP, dtype=torch.bool)
    valid[:, 30:] = False
    other = torch.where(valid[:, None], images, 255 - images)
    teacher = load_teacher(str(folder), "unused", CROP)
    for one, two in zip(teacher.tokens(images, valid), teacher.tokens(other, valid), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("templates", ["single", "multi"])
def test_text_features_are_means_of_unit_prompt_features(folder, templates):
    model, _, _ = reference(folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    rows = []
    for name in ("cat", "traffic light"):
        with torch.no_grad():
            features = model.encode_text(tokenizer([t.format(name) for t in TEMPLATES[templates]])).double().numpy()
        mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
        rows.append(mean / np.linalg.norm(mean))
    found = text_features(load_teacher(str(folder), "unused", CROP), ["cat", "traffic light"], templates)
    np.testing.assert_allclose(found.numpy(), rows, atol=1e-5)


def test_there_are_zegclips_15_prompts():
    assert len(set(TEMPLATES["multi"])) == 15
    assert TEMPLATES["single"] == ["a photo of a {}"]


@pytest.mark.parametrize("weights", ["no-such-tag", "folder-without-weights"])
def test_weights_that_are_not_there_are_one_line(weights, tmp_path):
    name = weights
    if weights == "folder-without-weights":
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
        name = str(tmp_path)
    with pytest.raises(TeacherError, match=r"teacher\.weights") as caught:
        load_teacher(name, "ViT-B-16-quickgelu", 224)
    assert "\n" not in str(caught.value)


def test_a_crop_that_the_patches_do_not_fill_is_refused(folder):
    with pytest.raises(TeacherError, match="such as 48"):
        load_teacher(str(folder), "unused", 50)
