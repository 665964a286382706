"""The compare step: all variants side by side, as results.json and one HTML report."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.data.split import Splits
from cliptea.evaluation.results import ResultRow, dump_results
from cliptea.evaluation.tasks import Evaluated
from cliptea.manifest import Manifest, find, fingerprint, publish, put_object, read_object
from cliptea.storage import Store, open_store

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["compare_variants"]

VERSION = 3
KIND = "compare"


def compare_variants(
    run: Run, splits: dict[str, Any], teacher: dict[str, Any], evaluations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write results.json and report.html; returns where they are, the rows, and the evaluation's fingerprint."""
    store = open_store()
    evaluated = sorted((Evaluated.model_validate(item) for item in evaluations), key=_place(run))
    rows = [row for item in evaluated for row in item.rows]
    fp = fingerprint(
        KIND,
        VERSION,
        rows=[row.model_dump() for row in rows],
        manifests=[manifest.fingerprint for item in evaluated for manifest in item.manifests.values()],
        run=run.fingerprint,
        tracking=run.tracking_run,
    )
    done, tracked_key = find(store, KIND, fp), f"tracked/{run.tracking_run}/compare-{fp}.json"
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
    from cliptea.report.gather import gather_context
    from cliptea.report.page import build_report
    from cliptea.teacher.cache import TeacherCache

    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    context = gather_context(store, run, splits, TeacherCache.model_validate(teacher), evaluated, tracking)
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
