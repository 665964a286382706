"""What the rows work on: photo-like JPEGs with label maps, a CLIP of true size with random weights, and a run of them.

Speed depends on sizes alone, so that neither data nor weights need be downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.measure import Bench, environment
from cliptea import settings
from cliptea.config import Config, EvaluationConfig, TrainConfig
from cliptea.data.datasets import open_dataset
from cliptea.run import Run, expand
from cliptea.steps.split import Splits, make_splits
from cliptea.teacher.network import architecture

if TYPE_CHECKING:
    from cliptea.segment.segmenter import Segmenter

__all__ = ["CLASSES", "SHAPES", "Prepared", "device", "new_run", "prepare", "random_model", "weights"]

CLASSES, UNSEEN = 20, 5  # as VOC's
WIDTH, HEIGHT = 500, 375  # as VOC's photos
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SHAPES = {"D": 512, "g": 32}  # of ViT-B/16's tokens of 512 x 512 pixels


class Prepared(NamedTuple):
    """A run whose images are in shards. The store is the one that CLIPTEA_STORE must name."""

    run: Run
    splits: Splits
    store: str


def device() -> str:
    """ "cuda" where there is a GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def weights(bench: Bench) -> Path:
    """A folder with ViT-B/16 (in quick runs, something tiny) of random weights; its text tower is one layer."""
    folder = bench.folder / "clip"
    if not folder.exists():
        import open_clip
        import safetensors.torch
        import torch

        torch.manual_seed(0)
        config: dict[str, Any] = SMALL if bench.quick else architecture("ViT-B-16-quickgelu")
        config = {**config, "text_cfg": {**config["text_cfg"], "layers": 1}}
        folder.mkdir()
        state = open_clip.CLIP(**config).state_dict()
        safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


def random_model(backbone: str, side: int, settings: EvaluationConfig) -> Segmenter:
    """A network with random weights, 20 classes and random text features of 512 numbers.

    The mean of each feature is 0 for images of this side, so that masks have many classes.
    """
    import torch

    from cliptea.models import build_student
    from cliptea.models.student import EncoderDecoder
    from cliptea.segment.model_files import Description
    from cliptea.segment.segmenter import Segmenter

    channels = SHAPES["D"]
    torch.manual_seed(0)
    student = build_student(backbone, channels).eval().to(device())
    text_ND = torch.nn.functional.normalize(torch.randn(CLASSES, channels, device=device()), dim=1)
    assert isinstance(student, EncoderDecoder)
    assert student.head.bias is not None
    with torch.no_grad():
        student.head.bias -= student(torch.randn(1, 3, side, side, device=device())).mean((0, 2, 3))
    names = [f"class {number}" for number in range(CLASSES)]
    description = Description(
        backbone=backbone, dim=channels, classes=names, unseen=names[-UNSEEN:], evaluation=settings
    )
    return Segmenter(student, description, text_ND)


def prepare(bench: Bench, images: int, *overrides: str) -> Prepared:
    """A run of so many training photos at 512 x 512 pixels (in quick runs, 64), split into shards.

    The rest of its settings are those of a data set of photos, and `overrides`.
    """
    root = bench.folder / f"photos-{images}"
    if not root.exists():
        _photos(root, images)
    store = (bench.folder / "store").as_uri()
    side = 64 if bench.quick else 512
    config = settings.load(
        "folder",
        [
            f"data.root={root}",
            f"teacher.weights={weights(bench)}",
            f"teacher.crop={side}",
            f"teacher.base_scale=[{4 * side},{side}]",
            f"train.workers={TrainConfig().workers}",
            *overrides,
        ],
    )
    with environment(CLIPTEA_STORE=store):
        run = new_run(config)
        return Prepared(run, make_splits(run), store)


def new_run(config: Config) -> Run:
    """A run of the first variant; MLflow has none for it."""
    return Run(
        config=config,
        data_digest=open_dataset(config.data).digest(),
        fingerprint="bench",
        job_id="bench",
        tracking_run="",
        variants=expand(config)[:1],
    )


def _photos(root: Path, images: int) -> None:
    """JPEGs of blurred noise, whose size and cost of decoding are those of photos, with patches of labels."""
    rng = np.random.default_rng(0)
    for split, number in (("train", images), ("val", 1)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for name in range(number):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
            image = (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / f"images/{split}/{name:05d}.jpg", quality=92)
            labels = Image.fromarray(rng.integers(0, CLASSES, (3, 4), dtype=np.uint8))
            labels.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(root / f"labels/{split}/{name:05d}.png")
    names = [f"class {number}" for number in range(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"classes": names, "unseen": names[-UNSEEN:]}))
