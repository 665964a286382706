"""The evaluate step: one trained student on the val shards, scored and logged. CLIP is not loaded here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cliptea import progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.evaluation.results import ResultRow, Scores
from cliptea.manifest import Manifest, StoredObject, find, fingerprint, read_object
from cliptea.storage import FileStore, open_store
from cliptea.teacher.cache import TeacherCache

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
    fp = fingerprint(KIND, VERSION, evaluation=config.evaluation, model=model.fingerprint, split=images.fingerprint)
    manifest = find(store, KIND, fp)
    tracked_key = f"tracked/{run.tracking_run}/{fp}-{model.fingerprint}.json"
    if manifest is not None and store.size(tracked_key) is not None:
        progress.reused()
    if manifest is None:
        from cliptea.evaluation.scoring import score_student

        manifest = score_student(store, f"{KIND}/{fp}", config, images, cache, model)
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
        (folder / "text.safetensors").write_bytes(read_object(store, teacher.tokens.objects["text.safetensors"]))
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
