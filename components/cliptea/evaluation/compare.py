"""The compare step: all variants side by side, as results.json and one HTML report."""

from __future__ import annotations

import io
import json
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliptea import progress
from cliptea.data.shards import ShardReader
from cliptea.data.split import Splits
from cliptea.evaluation.evaluate import Evaluated, chosen_images
from cliptea.evaluation.results import ResultRow, SweepRow, dump_results
from cliptea.manifest import Manifest, Output, find, fingerprint, publish, put_object, read_object
from cliptea.storage import Store, open_store

if TYPE_CHECKING:
    from cliptea.evaluation.report_context import AttentionPicture, PredictionPicture, RegionPicture, RunFacts
    from cliptea.runs import Run
    from cliptea.teacher.cache import TeacherCache

__all__ = ["compare_variants"]

KIND = "compare"
PACKAGES = ("cliptea", "torch", "open_clip_torch", "timm", "segmentation_models_pytorch", "kfp", "mlflow")


def compare_variants(
    run: Run, splits: dict[str, Any], teacher: dict[str, Any], evaluations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write results.json and report.html; returns where they are, the rows, and the evaluation's fingerprint."""
    store = open_store()
    evaluated = sorted((Evaluated.model_validate(item) for item in evaluations), key=_place(run))
    rows = [row for item in evaluated for row in item.rows]
    fp = fingerprint(
        KIND,
        rows=[row.model_dump() for row in rows],
        manifests=[manifest.fingerprint for item in evaluated for manifest in item.manifests.values()],
        run=run.fingerprint,
        tracking=run.tracking_run,
    )
    done, tracked_key = find(store, Output(KIND, fp)), f"tracked/{run.tracking_run}/compare-{fp}.json"
    if done is not None and store.size(tracked_key) is not None:
        progress.reused()
    if done is None:
        done = _compare(store, run, fp, Splits.model_validate(splits), teacher, evaluated, rows)
    if store.size(tracked_key) is None:
        from cliptea.tracking.client import told_later

        with told_later("tables and report"):
            _track(run, {name: read_object(store, item) for name, item in done.objects.items()}, rows)
            store.put(tracked_key, b"{}")
    uris = {name: store.uri(item.key) for name, item in done.objects.items()}
    progress.publish(report=uris["report.html"], results=uris["results.json"])
    return {
        "report": uris["report.html"],
        "results": uris["results.json"],
        "rows": [row.model_dump() for row in rows],
        "evaluation": evaluated[0].protocol,
        "stand_in": teacher["tokens"]["info"]["stand_in"],
    }


def _place(run: Run) -> Any:
    order = [(member, variant.seed) for variant in run.variants for member in variant.members]

    def place(item: Evaluated) -> int:
        row = item.rows[0]
        return next(
            index
            for index, (member, seed) in enumerate(order)
            if (member.group, member.variant, seed) == (row.group, row.variant, row.seed)
        )

    return place


def _compare(
    store: Store,
    run: Run,
    fp: str,
    splits: Splits,
    teacher: dict[str, Any],
    evaluated: list[Evaluated],
    rows: list[ResultRow],
) -> Manifest:
    from cliptea.evaluation.report import build_report
    from cliptea.evaluation.report_context import ReportContext
    from cliptea.teacher.cache import TeacherCache

    cache, split, own = TeacherCache.model_validate(teacher), splits.own, run.config.data.dataset
    first = [
        (item, np.load(io.BytesIO(read_object(store, item.manifests[own].objects["figures.npz"]))))
        for item in evaluated
        if item.rows[0].seed == 0
    ]
    context = ReportContext(
        facts=_facts(run, splits, cache),
        rows=rows,
        sweep=[_sweep(item, row) for item in evaluated for row in item.rows],
        losses=_losses(store, first),
        predictions=_predictions(store, run, split, first),
        attention=_attention(store, run, split, first),
        regions=_regions(store, run, split, cache),
        confusions={_labels(item): arrays["confusion"] for item, arrays in first},
        warnings=_warnings(splits, cache),
    )
    report = build_report(context).encode()
    results = dump_results(rows).encode()
    objects = {
        name: put_object(store, f"{KIND}/{fp}/{name}", data)
        for name, data in (("report.html", report), ("results.json", results))
    }
    return publish(store, Manifest(kind=KIND, fingerprint=fp, objects=objects))


def _track(run: Run, files: dict[str, bytes], rows: list[ResultRow]) -> None:
    from cliptea.tracking.client import connect
    from cliptea.tracking.promotion import best_row, candidates
    from cliptea.tracking.runs import log_best
    from cliptea.tracking.tables import log_table

    own = [row.model_dump() for row in rows if row.dataset == run.config.data.dataset]
    log_best(run, best_row(candidates(run, own) or own))
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        connect().log_artifacts(run.tracking_run, folder)
    log_table(run.tracking_run, [row.model_dump(exclude={"per_class"}) for row in rows], "variants.json")
    classes = [
        {
            "group": row.group,
            "variant": row.variant,
            "dataset": row.dataset,
            "seed": row.seed,
            "class": name,
            "iou": iou,
        }
        for row in rows
        for name, iou in row.per_class.items()
    ]
    log_table(run.tracking_run, classes, "classes.json")


def _facts(run: Run, splits: Splits, cache: TeacherCache) -> RunFacts:
    from cliptea.evaluation.report_context import RunFacts, Split

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
    from cliptea.evaluation.report_context import label

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
    from cliptea.data.records import LABEL, image_extension
    from cliptea.data.sample import decode_image, decode_labels
    from cliptea.evaluation.report_context import PredictionPicture

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
    from cliptea.data.records import read_view
    from cliptea.evaluation.report_context import AttentionPicture

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
    from cliptea.data.records import read_array, read_view, record_name
    from cliptea.evaluation.report_context import RegionPicture

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
