"""Collects the contents of the report from the outputs of earlier steps in the store."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from cliptea.config import Config
from cliptea.data.catalogue import IGNORE, Catalogue
from cliptea.data.records import ViewImage, chosen_images, read_array, read_pair, read_view, record_name
from cliptea.data.shards import ShardReader
from cliptea.evaluation.ranking import candidates
from cliptea.evaluation.results import Scored
from cliptea.manifest import Manifest, read_object
from cliptea.messages import number_of
from cliptea.report.context import AttentionPicture, PredictionPicture, RegionPicture, ReportContext, RunFacts
from cliptea.run import Run
from cliptea.steps.evaluate import Evaluated
from cliptea.steps.evaluation_tasks import FIGURES
from cliptea.steps.part_results import lacking, missing_text
from cliptea.steps.split import Splits, missing_figures, problems_of
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import Store
from cliptea.tracking.database import placeless_command
from cliptea.training.history import HELD_OUT

__all__ = ["attention_pictures", "gather_context", "showing_regions"]

PACKAGES = ("cliptea", "torch", "open_clip_torch", "timm", "segmentation_models_pytorch", "kfp", "mlflow")

SEARCHED = 60  # training images, for those that show regions
PICTURED = 24  # models with pictures and loss curves; MLflow has those of all others

Arrays = Mapping[str, np.ndarray]  # the content of figures.npz


def gather_context(
    store: Store, run: Run, splits: Splits, teacher: TeacherCache, evaluated: Sequence[Evaluated], tracking: str
) -> ReportContext:
    """Everything that the report shows.

    Args:
        evaluated: all variants in the order of the report.
        tracking: address of MLflow, or "".
    """
    own, rows = run.config.data.name, [row for item in evaluated for row in item.rows]
    first = _pictured(evaluated)
    figures: dict[str, Arrays] = {
        name: np.load(io.BytesIO(read_object(store, item.manifests[own].objects[FIGURES])))
        for name, item in first.items()
    }
    train = ShardReader(store, splits.own.objects, "train")
    views = {
        name: read_view(train, name, 0, run.config.teacher, run.config.data.seed)
        for name in chosen_images(train.names, run.config.evaluation.figures)
    }
    return ReportContext(
        facts=_facts(run, splits, teacher, tracking, evaluated),
        rows=rows,
        sweep=[
            (row, Scored.model_validate(item.manifests[row.dataset].info).sweep)
            for item in evaluated
            for row in item.rows
        ],
        losses={name: _losses(store, item) for name, item in first.items()},
        predictions=_predictions(store, run, splits.own, figures),
        attention=attention_pictures(views, figures),
        regions=_regions(store, run, train, teacher),
        confusions=_each(figures, "confusion"),
        warnings=_warnings(run, splits, teacher, evaluated),
    )


def _pictured(evaluated: Sequence[Evaluated]) -> dict[str, Evaluated]:
    """The `PICTURED` best models of the first seed by label, in the order of the report."""
    first = [item for item in evaluated if item.rows[0].seed == 0]
    best = sorted(first, key=lambda item: item.rows[0].hiou or 0.0, reverse=True)[:PICTURED]
    return {item.rows[0].label: item for item in first if item in best}


def _each(figures: Mapping[str, Arrays], key: str) -> dict[str, np.ndarray]:
    return {name: arrays[key] for name, arrays in figures.items()}


def attention_pictures(views: Mapping[str, ViewImage], figures: Mapping[str, Arrays]) -> list[AttentionPicture]:
    """Pictures of the models' attention on views, with the uniform weight on padding, which then has no colour."""
    pictures = []
    for name, view in views.items():
        maps = {}
        for label, weights_hw in _each(figures, f"attention/{name}").items():
            row_h, column_w = (
                np.arange(n) * view.valid.shape[0] // n for n in weights_hw.shape
            )  # as plm.reduce_labels
            valid_hw = view.valid[np.ix_(row_h, column_w)]
            maps[label] = np.where(valid_hw, weights_hw, 1 / max(1, valid_hw.sum()))
        pictures.append(AttentionPicture(name, view.image, maps))
    return pictures


def _facts(run: Run, splits: Splits, teacher: TeacherCache, tracking: str, evaluated: Sequence[Evaluated]) -> RunFacts:
    config, info = run.config, teacher.tokens.info
    grid = " x ".join(str(side) for side in info["grid"])
    return RunFacts(
        title=f"{config.data.name}: {number_of(len(run.variants), 'student')}",
        preset=config.preset,
        dataset=config.data.name,
        data_seed=config.data.seed,
        images={
            name: {part: counted["images"] for part, counted in split.info["counts"].items()}
            for name, split in {**splits.others, config.data.name: splits.own}.items()
        },
        catalogue=Catalogue.model_validate(splits.own.info["catalogue"]),
        other_catalogues={
            name: Catalogue.model_validate(split.info["catalogue"]) for name, split in splits.others.items()
        },
        gamma=config.evaluation.gamma,
        teacher="the demo's small CLIP, trained here on captions"
        if config.teacher.source.kind == "demo"
        else f"{config.teacher.model} from {config.teacher.weights}, {grid} dense tokens",
        clip_sha256=info["clip_sha256"],
        clip_views=info["views"],
        clip_time=teacher.clip,
        stand_in=info["stand_in"],
        abouts=run.abouts,
        complete=not lacking(run, evaluated),
        model=run.config.registered_model,
        candidates=sorted({row.label for row in candidates(run, [row for item in evaluated for row in item.rows])}),
        seeds=sorted({variant.seed for variant in run.variants}),
        iterations=config.train.iterations,
        data_digest=run.data_digest,
        versions={name: metadata.version(name) for name in PACKAGES},
        mlflow_run_id=run.tracking_run,
        mlflow_command=placeless_command(tracking),
        settings=config.model_dump(mode="json"),
    )


def _losses(store: Store, item: Evaluated) -> dict[str, list[tuple[int, float]]]:
    points: list[dict[str, Any]] = json.loads(read_object(store, item.history))
    terms = [name for name in points[0] if name not in ("iteration", HELD_OUT)]
    return {term: [(int(point["iteration"]), point[term]) for point in points] for term in terms}


def _predictions(store: Store, run: Run, split: Manifest, figures: Mapping[str, Arrays]) -> list[PredictionPicture]:
    reader = ShardReader(store, split.objects, "val")
    return [
        PredictionPicture(name, *read_pair(reader, name), _each(figures, f"prediction/{name}"))
        for name in chosen_images(reader.names, run.config.evaluation.figures)
    ]


def _regions(store: Store, run: Run, train: ShardReader, teacher: TeacherCache) -> list[RegionPicture]:
    """Pictures of the region maps of the first clustering setting. Empty if the run has no region maps."""
    if not teacher.regions:
        return []
    maps = ShardReader(store, next(iter(teacher.regions.values())).objects, "regions")
    figures = run.config.evaluation.figures
    searched = chosen_images(train.names, SEARCHED if isinstance(figures, int) else figures)
    pictures = (_region_picture(train, maps, name, run.config) for name in searched)
    return list(pictures) if isinstance(figures, list) else showing_regions(pictures, figures)


def showing_regions(pictures: Iterable[RegionPicture], number: int) -> list[RegionPicture]:
    """The first pictures with at least two regions and a fifth of their pixels in regions; then the other ones."""
    shown: list[RegionPicture] = []
    others: list[RegionPicture] = []
    for picture in pictures:
        if len(shown) == number:
            break
        found, pixels = np.unique(picture.regions[picture.regions != IGNORE], return_counts=True)
        enough = len(found) >= 2 and pixels.sum() >= picture.regions.size / 5
        (shown if enough else others).append(picture)
    return [*shown, *others][:number]


def _region_picture(train: ShardReader, maps: ShardReader, name: str, config: Config) -> RegionPicture:
    view = read_view(train, name, 0, config.teacher, config.data.seed)
    regions = read_array(maps, record_name(name, 0))
    times = (view.labels.shape[0] // regions.shape[0], view.labels.shape[1] // regions.shape[1])
    enlarged = np.kron(regions, np.ones(times, dtype=np.uint8))
    pixels = np.where((view.labels == IGNORE) & view.valid, enlarged, IGNORE).astype(np.uint8)
    return RegionPicture(id=name, image=view.image, labels=view.labels, regions=pixels)


def _warnings(run: Run, splits: Splits, teacher: TeacherCache, evaluated: Sequence[Evaluated]) -> list[str]:
    missing = lacking(run, evaluated)
    parts = [f"This comparison is not complete: {missing_text(missing, run.part.of)}."] if missing else []
    unknown = dict.fromkeys(word for text in teacher.text.values() for word in text.info["unknown_words"])
    words = [f"The demo's teacher does not know {', '.join(unknown)}."] if unknown else []
    return parts + problems_of(splits) + missing_figures(run.config, splits) + words
