"""What the report shows, gathered from what the steps have left in the store."""

from __future__ import annotations

import io
import json
import os
from importlib import metadata
from typing import Any

import numpy as np

from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split import LABEL, Splits
from cliptea.evaluation.evaluate import Evaluated, chosen_images
from cliptea.evaluation.report_context import (
    AttentionPicture,
    PredictionPicture,
    RegionPicture,
    ReportContext,
    RunFacts,
    Split,
    label,
)
from cliptea.evaluation.results import ResultRow, SweepRow
from cliptea.manifest import Manifest, read_object
from cliptea.runs import Run
from cliptea.storage import Store
from cliptea.teacher.cache import TeacherCache, image_extension, read_array, read_view, record_name

__all__ = ["report_context"]

PACKAGES = ("cliptea", "torch", "open_clip_torch", "timm", "segmentation_models_pytorch", "kfp", "mlflow")


def report_context(
    store: Store, run: Run, splits: Splits, cache: TeacherCache, evaluated: list[Evaluated]
) -> ReportContext:
    """Everything that the report is made of.

    Args:
        store: where the manifests' objects are.
        run: the pipeline run.
        splits, cache: manifests of shards and of the teacher's outputs.
        evaluated: the variants in the order of the report.
    """
    split, own = splits.own, run.config.data.dataset
    first = [
        (item, np.load(io.BytesIO(read_object(store, item.manifests[own].objects["figures.npz"]))))
        for item in evaluated
        if item.rows[0].seed == 0
    ]
    return ReportContext(
        facts=_facts(run, splits, cache),
        rows=[row for item in evaluated for row in item.rows],
        sweep=[_sweep(item, row) for item in evaluated for row in item.rows],
        losses=_losses(store, first),
        predictions=_predictions(store, run, split, first),
        attention=_attention(store, run, split, first),
        regions=_regions(store, run, split, cache),
        confusions={_labels(item): arrays["confusion"] for item, arrays in first},
        warnings=_warnings(splits, cache),
    )


def _facts(run: Run, splits: Splits, cache: TeacherCache) -> RunFacts:
    config, counts = run.config, splits.own.info["counts"]
    catalogues = {label: Split.model_validate(split.info["catalogue"]) for label, split in splits.others.items()}
    weights = config.teacher.weights
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    grid = " x ".join(str(side) for side in cache.tokens.info["grid"])
    return RunFacts(
        title=f"{config.data.dataset}: {len(run.variants)} students",
        preset=config.preset,
        dataset=config.data.dataset,
        data_seed=config.data.seed,
        train_images=counts["train"]["images"],
        val_images=counts["val"]["images"],
        split=Split.model_validate(splits.own.info["catalogue"]),
        other_splits=catalogues,
        gamma=config.evaluation.gamma,
        teacher="the demo's small CLIP, trained here on captions"
        if weights == "demo"
        else f"{config.teacher.model} from {weights}, {grid} dense tokens",
        stand_in=cache.tokens.info["stand_in"],
        seeds=sorted({variant.seed for variant in run.variants}),
        iterations=config.train.iterations,
        data_digest=run.data_digest,
        versions={name: metadata.version(name) for name in PACKAGES},
        mlflow_run_id=run.tracking_run,
        mlflow_command=f"mlflow ui --backend-store-uri {tracking}" if tracking.startswith("sqlite:") else tracking,
        settings=config.model_dump(mode="json"),
    )


def _sweep(item: Evaluated, row: ResultRow) -> SweepRow:
    return SweepRow(
        variant=row.variant,
        group=row.group,
        dataset=row.dataset,
        seed=row.seed,
        sweep=item.manifests[row.dataset].info["sweep"],
    )


def _labels(item: Evaluated) -> str:
    return label(item.rows[0].group, item.rows[0].variant)


def _losses(store: Store, first: list[tuple[Evaluated, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for item, _ in first:
        points = json.loads(read_object(store, item.history))
        terms = [name for name in points[0] if name != "iteration"]
        curves[_labels(item)] = {term: [(int(point["iteration"]), point[term]) for point in points] for term in terms}
    return curves


def _predictions(
    store: Store, run: Run, split: Manifest, first: list[tuple[Evaluated, Any]]
) -> list[PredictionPicture]:
    reader = ShardReader(store, split.objects, "val")
    pictures = []
    for name in chosen_images(reader.names, run.config.evaluation.figures):
        pictures.append(
            PredictionPicture(
                id=name,
                image=decode_image(reader.read(name, image_extension(reader, name)), name),
                truth=decode_labels(reader.read(name, LABEL), name),
                predictions={_labels(item): array[f"prediction/{name}"] for item, array in first},
            )
        )
    return pictures


def _attention(store: Store, run: Run, split: Manifest, first: list[tuple[Evaluated, Any]]) -> list[AttentionPicture]:
    config, reader = run.config, ShardReader(store, split.objects, "train")
    return [
        AttentionPicture(
            id=name,
            image=read_view(reader, name, 0, config.teacher, config.data.seed).image,
            maps={_labels(item): array[f"attention/{name}"] for item, array in first},
        )
        for name in chosen_images(reader.names, config.evaluation.figures)
    ]


def _regions(store: Store, run: Run, split: Manifest, cache: TeacherCache) -> list[RegionPicture]:
    if not cache.regions:
        return []
    config, reader = run.config, ShardReader(store, split.objects, "train")
    maps = ShardReader(store, next(iter(cache.regions.values())).objects, "regions")
    pictures = []
    for name in chosen_images(reader.names, config.evaluation.figures):
        view = read_view(reader, name, 0, config.teacher, config.data.seed)
        regions = read_array(maps, record_name(name, 0))
        times = (view.labels.shape[0] // regions.shape[0], view.labels.shape[1] // regions.shape[1])
        pixels = np.where((view.labels == 255) & view.valid, np.kron(regions, np.ones(times, dtype=np.uint8)), 255)
        pictures.append(RegionPicture(id=name, image=view.image, labels=view.labels, regions=pixels.astype(np.uint8)))
    return pictures


def _warnings(splits: Splits, cache: TeacherCache) -> list[str]:
    unknown = dict.fromkeys(word for text in cache.text.values() for word in text.info["unknown_words"])
    words = [f"The demo's teacher does not know {', '.join(unknown)}."] if unknown else []
    named = {"": splits.own, **{f"{label}: ": split for label, split in splits.others.items()}}
    return [f"{before}{problem}" for before, split in named.items() for problem in split.info["problems"]] + words
