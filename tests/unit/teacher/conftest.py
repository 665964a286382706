"""A small CLIP with random weights, in open_clip's folder layout."""

import json
from functools import partial
from types import SimpleNamespace

import open_clip
import pytest
import safetensors.torch
import torch

from cliptea import settings
from cliptea.data.datasets import open_dataset
from cliptea.run import Run, expand
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.storage import open_store
from cliptea.teacher import blocks
from cliptea.teacher.outputs import ClipTime

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


SMALL = ["data.world.train_scenes=20", "data.world.val_scenes=2", "teacher.views=2", "teacher.batch_size=4",
         "teacher.crop=48", "variants=[baselines/full]", "data.shard_mib=1"]  # fmt: skip


@pytest.fixture
def make(tmp_path, monkeypatch, folder):
    """Builds the cache of a run with further overrides in the store of that name."""
    torch.set_num_threads(1)
    monkeypatch.setattr(blocks, "BLOCK", 12)

    def build(*overrides, store="store"):
        monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / store).as_uri())
        config = settings.load("smoke", [*SMALL, f"teacher.weights={folder}", *overrides])
        run = Run(config=config, data_digest=open_dataset(config.data).digest(), fingerprint="f", job_id="j",
                  tracking_run="t", variants=expand(config))  # fmt: skip
        splits = make_splits(run)
        cache = publish_cache(run, splits)
        return SimpleNamespace(
            run=run,
            splits=splits,
            split=splits.own,
            cache=cache.model_copy(update={"clip": ClipTime()}),  # so that two of them can be compared
            clip=cache.clip,
            store=open_store(),
            files=partial(files, open_store()),
        )

    return build


def files(store):
    """What the teacher step has left, by key, except for measured times."""
    keys = [entry.key for entry in store.entries("") if not entry.key.startswith(("split", "clip-time"))]
    return {key: store.get(key) for key in keys}
