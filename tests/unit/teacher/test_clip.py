"""The teacher's tokens against open_clip's own forward pass, on random weights."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from cliptea.errors import ConfigError, StorageError, TeacherError
from cliptea.teacher.clip import load_teacher

CROP, PATCH = 48, 8
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


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


def test_positions_are_resized_as_pillow_resizes_images(folder):
    """Bicubic with antialiasing, from 4x4 to 6x6 and down to 3x3; the CLS token's position stays."""
    stored = safetensors.torch.load_file(folder / "open_clip_model.safetensors")["visual.positional_embedding"].numpy()
    grid = stored[1:].reshape(4, 4, -1)
    for side in (6, 3):
        channels = [
            Image.fromarray(grid[:, :, channel]).resize((side, side), Image.Resampling.BICUBIC) for channel in range(32)
        ]
        wanted = np.stack([np.asarray(channel) for channel in channels], -1).reshape(side * side, -1)
        found = load_teacher(str(folder), "unused", side * PATCH).clip.visual.positional_embedding.numpy()
        np.testing.assert_allclose(found[1:], wanted, atol=1e-5)
        np.testing.assert_array_equal(found[0], stored[0])


def test_a_folders_own_mean_and_deviation_count(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    described["preprocess_cfg"] = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    teacher = load_teacher(str(tmp_path), "unused", CROP)
    model, images, _ = reference(folder)
    cls, _ = teacher.tokens(images, torch.ones(3, CROP, CROP, dtype=torch.bool))
    with torch.no_grad():
        torch.testing.assert_close(cls, model.encode_image(images / 127.5 - 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["no-such-tag", "folder-without-weights"])
def test_weights_that_are_not_there_are_one_line(weights, tmp_path):
    name = weights
    if weights == "folder-without-weights":
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": {}}))
        name = str(tmp_path)
    with pytest.raises(TeacherError, match=r"teacher\.weights") as caught:
        load_teacher(name, "ViT-B-16-quickgelu", 224)
    assert "\n" not in str(caught.value)


def test_a_crop_that_the_patches_do_not_fill_is_refused(folder):
    with pytest.raises(ConfigError, match="such as 48"):
        load_teacher(str(folder), "unused", 50)


def test_a_folder_that_is_not_open_clips_is_one_line(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(TeacherError, match=r"not an open_clip folder.*open_clip_config\.json"):
        load_teacher(str(tmp_path), "unused", CROP)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_cfg", [1]),
        ("model_cfg", None),
        ("preprocess_cfg", [1]),
        ("preprocess_cfg", {"mean": 0.5}),
        ("preprocess_cfg", {"std": [0.5]}),
        ("preprocess_cfg", {"mean": [0.5, float("nan"), 0.5]}),
    ],
)
def test_odd_descriptions_in_a_folder_are_one_line(folder, tmp_path, key, value):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described | {key: value}))
    with pytest.raises(TeacherError, match=r"is not an open_clip folder; expected open_clip_config\.json"):
        load_teacher(str(tmp_path), "unused", CROP)


def test_a_folder_may_leave_the_normalisation_to_open_clip(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described | {"preprocess_cfg": None}))
    teacher = load_teacher(str(tmp_path), "unused", CROP)
    assert teacher.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"ViT-B-16\.pt"):
        load_teacher(str(tmp_path / "ViT-B-16.pt"), "ViT-B-16-quickgelu", 224)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pool_type": "none"}, "does not provide a global token and patch tokens.*pool_type=none"),
        ({"attentional_pool": True}, "does not provide a global token and patch tokens.*CoCa"),
        ({"layers": [1, 1, 1, 1], "width": 64}, "does not provide a global token and patch tokens.*ResNet"),
        ({"timm_model_name": "resnet18"}, "does not provide a global token and patch tokens.*timm's resnet18"),
        ({"colour": "red"}, "cannot build"),
    ],
)
def test_networks_without_tokens_in_the_joint_space_are_refused(folder, tmp_path, change, complaint):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    described["model_cfg"]["vision_cfg"] |= change
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    with pytest.raises(TeacherError, match=complaint):
        load_teacher(str(tmp_path), "unused", CROP)


def test_an_unknown_architecture_brings_its_neighbours(folder):
    with pytest.raises(TeacherError, match=r"ViT-B-16-quickgelu"):
        load_teacher(str(folder / "open_clip_model.safetensors"), "ViT-B-16-quickglu", 224)
