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
from cliptea.manifest import Manifest, Output, find, fingerprint, publish, put_object, read_object
from cliptea.storage import Store, open_store

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["catch_up", "compare_variants", "tell_report"]

KIND = "compare"


def compare_variants(
    run: Run, splits: dict[str, Any], teacher: dict[str, Any], evaluations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write results.json and report.html; returns where they are, the rows, and the evaluation's fingerprint."""
    from cliptea.tracking.client import TrackingError
    from cliptea.tracking.untold import SHORT_SECONDS, Untold, note, tell, told

    store, whole = open_store(), True
    try:
        catch_up(run, SHORT_SECONDS)
    except TrackingError as away:
        progress.warn(f"MLflow is told later what it missed ({away.what})")
        whole = False
    inputs = {"splits": splits, "teacher": teacher, "evaluations": evaluations}
    done, evaluated, reused = _report(run, **inputs)
    telling = f"{KIND}-{done.fingerprint}"
    if told(store, run, telling) is not None:
        if reused:
            progress.reused()
    else:
        untold = Untold(kind="report", what="tables and report", inputs=inputs)
        if whole:
            tell(store, run, telling, tell_report, untold)
        else:  # the report names the runs that are still to be made
            note(store, run, telling, untold)
    uris = {name: store.uri(item.key) for name, item in done.objects.items()}
    progress.publish(report=uris["report.html"], results=uris["results.json"])
    return {
        "report": uris["report.html"],
        "results": uris["results.json"],
        "rows": [row.model_dump() | {"telling": item.telling} for item in evaluated for row in item.rows],
        "evaluation": evaluated[0].protocol,
        "stand_in": teacher["tokens"]["info"]["stand_in"],
    }


def catch_up(run: Run, seconds: float | None = None) -> None:
    """Tell MLflow what steps of the run could not tell it.

    Args:
        run: the pipeline run.
        seconds: that MLflow may be away; default: `cliptea.outage.patience()`.

    Raises:
        TrackingError: it is away for longer, or refuses.
    """
    from cliptea.evaluation.evaluate import tell_scores
    from cliptea.tracking.data import tell_data
    from cliptea.tracking.untold import deliver

    deliver(open_store(), run, {"data": tell_data, "scores": tell_scores, "report": tell_report}, seconds)


def tell_report(
    run: Run, splits: dict[str, Any], teacher: dict[str, Any], evaluations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Log tables and report to the pipeline run's MLflow run; both name the variants' runs, as they are known by now.

    Args:
        run: the pipeline run.
        splits, teacher, evaluations: as of `compare_variants`.
    """
    store = open_store()
    done, evaluated, _ = _report(run, splits, teacher, evaluations)
    files = {name: read_object(store, item) for name, item in done.objects.items()}
    _track(run, files, [row for item in evaluated for row in item.rows])
    return {}


def _report(
    run: Run, splits: dict[str, Any], teacher: dict[str, Any], evaluations: list[dict[str, Any]]
) -> tuple[Manifest, list[Evaluated], bool]:
    """The report's manifest, the evaluated variants in order with their models' places, and whether it was there.

    A report that was made while MLflow was away is replaced when those are known.
    """
    from cliptea.tracking.untold import model_place, told

    store = open_store()
    evaluated = sorted((Evaluated.model_validate(item) for item in evaluations), key=_place(run))
    for item in evaluated:
        place = model_place(told(store, run, item.telling))
        item.rows = [row.model_copy(update=place) for row in item.rows]
    rows = [row for item in evaluated for row in item.rows]
    fp = fingerprint(
        KIND,
        rows=[row.model_dump(exclude={"model_uri", "mlflow_run_id"}) for row in rows],
        manifests=[manifest.fingerprint for item in evaluated for manifest in item.manifests.values()],
        run=run.fingerprint,
        tracking=run.tracking_run,
    )
    found = find(store, Output(KIND, fp))
    if found is not None and found.info["models"] == [row.model_uri for row in rows]:
        return found, evaluated, True
    return _compare(store, run, fp, Splits.model_validate(splits), teacher, evaluated), evaluated, False


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
) -> Manifest:
    from cliptea.report.gather import gather_context
    from cliptea.report.page import build_report
    from cliptea.teacher.cache import TeacherCache

    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    context = gather_context(store, run, splits, TeacherCache.model_validate(teacher), evaluated, tracking)
    report = build_report(context).encode()
    results = dump_results(context.rows).encode()
    objects = {
        name: put_object(store, f"{KIND}/{fp}/{name}", data)
        for name, data in (("report.html", report), ("results.json", results))
    }
    info = {"models": [row.model_uri for row in context.rows]}
    return publish(store, Manifest(kind=KIND, fingerprint=fp, objects=objects, info=info))


def _track(run: Run, files: dict[str, bytes], rows: list[ResultRow]) -> None:
    from cliptea.tracking.client import connect
    from cliptea.tracking.logged_table import log_table
    from cliptea.tracking.promotion import best_row, candidates
    from cliptea.tracking.runs import log_best

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
