"""A small CLIP with random weights, in open_clip's folder layout."""

import json

import open_clip
import pytest
import safetensors.torch
import torch

SIZE, CROP, PATCH = 32, 48, 8
MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(MODEL["embed_dim"], MODEL["vision_cfg"], MODEL["text_cfg"])
    safetensors.torch.save_file(model.state_dict(), path / "open_clip_model.safetensors")
    described = {"model_cfg": MODEL, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (path / "open_clip_config.json").write_text(json.dumps(described))
    return path


@pytest.fixture
def small_architecture(monkeypatch):
    """The small CLIP as an architecture that open_clip brings, with QuickGELU and without."""
    from open_clip import factory

    for name, quick in (("small", False), ("small-quickgelu", True)):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, {**MODEL, "quick_gelu": quick})
    return "small"
