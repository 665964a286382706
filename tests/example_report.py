"""A report as a run makes it: 14 rows of 11 trained models in 4 groups, with pictures."""

import math
import zlib

import numpy as np

from cliptea import settings, variant_groups
from cliptea.data.catalogue import Catalogue
from cliptea.evaluation.results import Inference, ResultRow, Scores
from cliptea.report.context import (
    AttentionPicture,
    PredictionPicture,
    RegionPicture,
    ReportContext,
    RunFacts,
)

CLASSES = ["zebra", "tiger", "cow", "melon", "plum", "grass", "water", "sand"]
UNSEEN = ["zebra", "plum", "water"]
VARIANTS = [  # group, variant, backbone, hIoU, model
    ("backbones", "segformer_b0", "segformer_b0", 0.66, "m1"),
    ("backbones", "convnext_upernet", "convnext_upernet", 0.62, "m2"),
    ("backbones", "demo_fpn", "demo_fpn", 0.74, "m0"),
    ("table3", "full", "demo_fpn", 0.74, "m0"),
    ("table3", "no_bce", "demo_fpn", 0.72, "m3"),
    ("table3", "no_ce", "demo_fpn", 0.68, "m4"),
    ("table3", "no_cls_token", "demo_fpn", 0.25, "m5"),
    ("table3", "no_generate", "demo_fpn", 0.74, "m6"),
    ("baselines", "full", "demo_fpn", 0.74, "m0"),
    ("baselines", "no_pseudo", "demo_fpn", 0.54, "m7"),
    ("baselines", "seen_only", "demo_fpn", 0.16, "m8"),
    ("table4", "attention", "demo_fpn", 0.74, "m0"),
    ("table4", "max", "demo_fpn", 0.62, "m9"),
    ("table4", "mean", "demo_fpn", 0.73, "m10"),
]
ABOUTS = {
    f"{group}/{name}": variant_groups.about_variant(delta)
    for group in variant_groups.variant_groups()
    for name, delta in variant_groups.variant_group(group).items()
}
SETTINGS = settings.load("pascal_context", ["variants=[table3]"]).model_dump(mode="json")

INFERENCE = Inference(
    device="CPU",
    threads=2,
    precision="float32",
    size="512x512",
    latency_ms=8.5,
    images_per_second=240.0,
    peak_memory_mib=None,
    parameters=3_714_000,
    gflops=9.1,
)


def result(variant: tuple, seed: int, dataset: str) -> ResultRow:
    group, name, backbone, level, model = variant
    rng = np.random.default_rng([seed, zlib.crc32(model.encode())])  # equal models have equal scores
    seen, unseen = (float(np.clip(level + rng.normal(0, 0.01), 0, 1)) for _ in range(2))
    per_class: dict[str, float | None] = {c: float(np.clip(level + rng.normal(0, 0.1), 0, 1)) for c in CLASSES}
    return ResultRow(
        variant=name,
        group=group,
        backbone=backbone,
        dataset=dataset,
        seed=seed,
        iterations=20000,
        gamma=(5.0 if name == "no_cls_token" else 1.5) if dataset == "pascal_context" else 0.0,
        pAcc=min(1.0, level + 0.1),
        miou_seen=seen,
        miou_unseen=unseen,
        hiou=2 * seen * unseen / (seen + unseen),
        per_class=per_class | {"melon": None},
        training_images_per_second=200.0,
        inference=INFERENCE,
        model_uri=f"runs:/{model}-{seed}/model",
        mlflow_run_id=f"{model}-{seed}",
    )


def make(seeds=(0, 1, 2), variants=VARIANTS, classes=CLASSES, unseen=UNSEEN, **facts) -> ReportContext:
    """A realistic run: 14 rows of 11 trained models in 4 groups."""
    rng = np.random.default_rng(0)
    dataset = facts.get("dataset", "demo")
    names = [f"{group}/{name}" for group, name, *_ in variants]
    images = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(3)]
    truths = [np.kron(rng.integers(0, len(classes), (4, 4)), np.ones((16, 16), dtype=int)) for _ in images]
    catalogue = Catalogue(classes=classes, unseen=unseen)
    ids = [classes.index(name) for name in unseen]
    rows = [result(variant, seed, dataset) for seed in seeds for variant in variants]
    return ReportContext(
        facts=RunFacts(
            **{
                "abouts": {name: ABOUTS.get(name, f"About {name}") for name in names},
                "model": "cliptea-demo",
                "candidates": [name for name in names if name.startswith("backbones/") or name.endswith("/full")],
                "title": "CLIPTeacher on the demo world",
                "preset": "demo",
                "dataset": dataset,
                "data_seed": 0,
                "images": {
                    dataset: {"train": 4998, "val": 5105} if dataset == "pascal_context" else {"train": 800, "val": 200}
                },
                "catalogue": catalogue,
                "gamma": 0.0,
                "teacher": "the demo's small CLIP",
                "stand_in": False,
                "seeds": list(seeds),
                "iterations": 300,
                "data_digest": "b1946ac92492",
                "versions": {"torch": "2.15.0"},
                "mlflow_run_id": "0af7651916cd",
                "mlflow_command": "mlflow ui --backend-store-uri sqlite:///x.db",
                "settings": SETTINGS,
                **facts,
            }
        ),
        rows=rows,
        sweep=[
            (r, {"0": s, "1.5": s})
            for r in rows
            for s in [Scores(pAcc=r.pAcc, miou_seen=r.miou_seen, miou_unseen=r.miou_unseen, hiou=r.hiou)]
        ],
        losses={name: {"ce": [(i, math.exp(-i / 50)) for i in range(1, 100)], "global": [(1, 6.2)]} for name in names},
        predictions=[
            PredictionPicture(f"val/{i}", image, truth, {name: truth for name in names})
            for i, (image, truth) in enumerate(zip(images, truths, strict=True))
        ],
        attention=[
            AttentionPicture(f"train/{i}", image, {name: rng.random((16, 16)) for name in names[:3]})
            for i, image in enumerate(images)
        ],
        regions=[
            RegionPicture(f"train/{i}", image, *masked(truth, ids))
            for i, (image, truth) in enumerate(zip(images, truths, strict=True))
        ],
        confusions={name: rng.integers(0, 99, (len(classes), len(classes))) for name in names},
        warnings=["3 images have no labelled pixel."],
    )


def masked(truth: np.ndarray, unseen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    ignored = np.isin(truth, unseen)
    return np.where(ignored, 255, truth), np.where(ignored, 0, 255)
