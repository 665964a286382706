"""The evaluate step: one trained student on the val shards. CLIP is not loaded here."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel

from cliptea import device, progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split import LABEL
from cliptea.evaluation.inference import class_logits, rank
from cliptea.evaluation.metrics import confusion, per_class_iou, score
from cliptea.evaluation.results import ResultRow, Scores
from cliptea.manifest import Manifest, StoredObject, find, fingerprint, publish, put_object, read_object
from cliptea.method import glm
from cliptea.models import build_student
from cliptea.models.student import Student
from cliptea.storage import FileStore, open_store
from cliptea.teacher.cache import TeacherCache, read_array, read_view, record_name
from cliptea.training.augment import normalise

if TYPE_CHECKING:
    from cliptea.runs import Run, Variant

__all__ = ["Evaluated", "evaluate_variant"]

VERSION = 1
KIND = "evaluate"


class Evaluated(BaseModel):
    """What an evaluated variant hands on: its result rows, one for each group, and where the rest lies."""

    rows: list[ResultRow]
    manifest: Manifest
    history: StoredObject
    protocol: str  # fingerprint of the evaluation set and how it is measured


def evaluate_variant(
    run: Run, variant: dict[str, Any], split: dict[str, Any], teacher: dict[str, Any], trained: dict[str, Any]
) -> dict[str, Any]:
    """Score one variant and log it to its MLflow run; returns a dumped `Evaluated`."""
    from cliptea.runs import Variant

    chosen, store = Variant.model_validate(variant), open_store()
    config = chosen.config(run.config)
    images, model = Manifest.model_validate(split), Manifest.model_validate(trained)
    cache = TeacherCache.model_validate(teacher)
    protocol = fingerprint(
        "protocol",
        VERSION,
        evaluation=config.evaluation.model_dump(exclude={"figures", "sweep"}),
        split=images.fingerprint,
    )
    fp = fingerprint(
        KIND, VERSION, evaluation=config.evaluation, model=model.fingerprint, split=images.fingerprint
    )
    manifest = find(store, KIND, fp)
    tracked_key = f"tracked/{run.tracking_run}/{fp}-{model.fingerprint}.json"
    if manifest is not None and store.size(tracked_key) is not None:
        progress.reused()
    if manifest is None:
        device.prepare()
        manifest = _evaluate(store, config, fp, images, cache, model)
    catalogue = Catalogue.model_validate(images.info["catalogue"])
    if store.size(tracked_key) is None:
        run_id = _track(store, run, chosen, config, catalogue, cache, model, manifest)
        store.put(tracked_key, json.dumps({"mlflow_run_id": run_id}).encode())
    run_id = json.loads(store.get(tracked_key))["mlflow_run_id"]
    rows = [
        ResultRow(
            variant=member.variant,
            group=member.group,
            backbone=config.student.backbone,
            dataset=config.data.dataset,
            seed=chosen.seed,
            iterations=config.train.iterations,
            gamma=config.evaluation.gamma,
            **manifest.info["scores"],
            per_class=manifest.info["per_class"],
            images_per_second=model.info["images_per_second"],
            model_uri=f"runs:/{run_id}/model",
            mlflow_run_id=run_id,
        )
        for member in chosen.members
    ]
    history = model.objects["history.json"]
    return Evaluated(rows=rows, manifest=manifest, history=history, protocol=protocol).model_dump()


def _evaluate(
    store: FileStore, config: Config, fp: str, split: Manifest, teacher: TeacherCache, model: Manifest
) -> Manifest:
    catalogue = Catalogue.model_validate(split.info["catalogue"])
    student = _load_student(store, model)
    text_ND = teacher.text(store).to(device.best())
    reader = ShardReader(store, split.objects, "val")
    gammas = sorted({config.evaluation.gamma, *config.evaluation.sweep})
    number = len(catalogue.classes)
    matrices = {gamma: np.zeros((number, number), dtype=np.int64) for gamma in gammas}
    pictures: dict[str, np.ndarray] = {}
    with progress.bar("evaluating", total=len(reader.names), unit="image") as bar:
        for position, name in enumerate(reader.names):
            image = decode_image(reader.read(name, _image_extension(reader, name)), name)
            truth = decode_labels(reader.read(name, LABEL), name)
            ranked = rank(class_logits(student, image, text_ND, config.evaluation), catalogue.unseen_ids)
            for gamma in gammas:
                predicted = ranked.predict(gamma).cpu().numpy()
                matrices[gamma] += confusion(truth, predicted, number)
                if gamma == config.evaluation.gamma and position < config.evaluation.figures:
                    pictures[f"prediction/{name}"] = predicted.astype(np.uint8)
            bar.update(1)
    pictures |= _attention(store, student, config, split, teacher)
    chosen = matrices[config.evaluation.gamma]
    info = {
        "scores": score(chosen, catalogue.unseen_ids).model_dump(),
        "per_class": _by_name(per_class_iou(chosen), catalogue),
        "sweep": {
            f"{gamma:g}": score(matrices[gamma], catalogue.unseen_ids).model_dump() for gamma in gammas
        },
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, confusion=chosen, **pictures)
    objects = {"figures.npz": put_object(store, f"{KIND}/{fp}/figures.npz", buffer.getvalue())}
    return publish(store, Manifest(kind=KIND, fingerprint=fp, objects=objects, info=info))


def _image_extension(reader: ShardReader, name: str) -> str:
    return next(extension for extension in reader.extensions(name) if extension != LABEL)


def _by_name(iou_N: np.ndarray, catalogue: Catalogue) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(catalogue.classes, iou_N, strict=True)
    }


def _load_student(store: FileStore, model: Manifest) -> Student:
    student = build_student(model.info["backbone"], int(model.info["dim"]))
    student.load_state_dict(safetensors.torch.load(read_object(store, model.objects["model.safetensors"])))
    return student.to(device.best()).eval()


@torch.inference_mode()
def _attention(
    store: FileStore, student: Student, config: Config, split: Manifest, teacher: TeacherCache
) -> dict[str, np.ndarray]:
    """Attention of eq. 1 on the first training views, whose CLS tokens are stored (the paper's Figure 5)."""
    images, tokens = (
        ShardReader(store, split.objects, "train"),
        ShardReader(store, teacher.tokens.objects, "cls"),
    )
    maps = {}
    for name in images.names[: config.evaluation.figures]:
        view = read_view(images, name, 0, config.teacher, config.data.seed)
        valid = torch.from_numpy(view.valid)
        pixels = normalise(torch.from_numpy(view.image.copy()).permute(2, 0, 1), valid)[None].to(
            device.best()
        )
        cls_BD = torch.from_numpy(read_array(tokens, record_name(name, 0)))[None].to(device.best())
        maps[f"attention/{name}"] = glm.attend(cls_BD, student(pixels)).weights_Bhw[0].cpu().numpy()
    return maps


def _track(
    store: FileStore,
    run: Run,
    variant: Variant,
    config: Config,
    catalogue: Catalogue,
    teacher: TeacherCache,
    model: Manifest,
    evaluated: Manifest,
) -> str:
    """Log curves, scores and the model to the variant's MLflow run; returns its id."""
    from cliptea.tracking.runs import ChildRun

    child = ChildRun.open(run, variant)
    child.log_curves(json.loads(read_object(store, model.objects["history.json"])))
    scores = Scores.model_validate(evaluated.info["scores"])
    child.log_result(
        {
            "pacc": scores.pAcc,
            "miou_seen": scores.miou_seen,
            "miou_unseen": scores.miou_unseen,
            "hiou": scores.hiou,
            "throughput/images_per_second": model.info["images_per_second"],
        },
        evaluated.info["per_class"],
        {"gamma": config.evaluation.gamma, "parameters": model.info["parameters"]},
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.safetensors").write_bytes(read_object(store, model.objects["model.safetensors"]))
        (folder / "text.safetensors").write_bytes(
            read_object(store, teacher.tokens.objects["text.safetensors"])
        )
        description = {
            "backbone": model.info["backbone"],
            "dim": model.info["dim"],
            "classes": catalogue.classes,
            "unseen": catalogue.unseen,
            "evaluation": config.evaluation.model_dump(include={"gamma", "scale", "divisor"}),
        }
        (folder / "model.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        child.log_folder(folder, "model")
    child.finish()
    return child.run_id
