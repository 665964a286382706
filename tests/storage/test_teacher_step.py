"""Split and teacher step and a few training batches over S3 on a bad network: the same as on a disk."""

import json

import open_clip
import pytest
import safetensors.torch
import torch
from s3_server import BUCKET

from cliptea import settings
from cliptea.data.datasets import open_dataset
from cliptea.data.split import Splits, build_splits
from cliptea.runs import Run, expand
from cliptea.storage import open_store
from cliptea.teacher.cache import TeacherCache, build_cache
from cliptea.training.batches import batches

CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "clip"
    folder.mkdir()
    model = open_clip.CLIP(CLIP["embed_dim"], CLIP["vision_cfg"], CLIP["text_cfg"])
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    return folder


def everything(clip):
    """What the steps leave in the store, and the batches that training reads from it."""
    torch.set_num_threads(1)
    config = settings.load("smoke", [f"teacher.weights={clip}", "train.iterations=3", "data.world.train_scenes=12",
                                     "data.world.val_scenes=2", "variants=[baselines/full]"])  # fmt: skip
    run = Run(config=config, data_digest=open_dataset(config.data).digest(), fingerprint="f", job_id="j",
              tracking_run="t", variants=expand(config))  # fmt: skip
    splits = build_splits(run)
    cache = build_cache(run, splits)
    read = list(batches(config, Splits.model_validate(splits).own, TeacherCache.model_validate(cache), seed=0))
    store = open_store()
    return {entry.key: store.get(entry.key) for entry in store.entries("")}, read


def test_steps_over_a_bad_network_leave_what_they_leave_on_a_disk(store, proxy, environment, tmp_path, clip):
    environment.setenv("CLIPTEA_STORE", (tmp_path / "files").as_uri())
    wanted, wanted_batches = everything(clip)
    environment.setenv("CLIPTEA_STORE", f"s3://{BUCKET}/{tmp_path.name}")
    for method, kind in (("PUT", "500"), ("PUT", "503"), ("PUT", "reset"), ("GET", "500"), ("GET", "reset"),
                         ("GET", "truncate"), ("HEAD", "503")):  # fmt: skip
        proxy.fail(kind, 1, method)
    proxy.fail("corrupt", 1, "GET", "cls/00000-")
    proxy.fail("corrupt", 1, "GET", "regions/index-")
    found, found_batches = everything(clip)
    assert found == wanted
    assert proxy.injected == 9
    assert len(found_batches) == 3
    for one, two in zip(found_batches, wanted_batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
