"""Compares all students in results.json and an HTML report, and logs both to MLflow."""

from collections.abc import Sequence
from typing import Any, List  # noqa: UP035 (kfp resolves no list[Artifact])

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.evaluation.ranking import best_of, judge
from cliptea.evaluation.results import Inference, ResultRow, dump_results, scalars
from cliptea.manifest import Contents, Manifest, Output, find_whole, fingerprint, make_once, put_object, read_object
from cliptea.report.summaries import summarise
from cliptea.run import TRANSDUCTIVE, Run, is_transductive
from cliptea.steps.component import step
from cliptea.steps.evaluate import Evaluated
from cliptea.steps.part_results import lacking, missing_text, placed, with_other_parts
from cliptea.steps.scores_entry import ScoresEntry
from cliptea.steps.split import DataEntry, Splits, left_out_of
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import Store, open_store
from cliptea.tracking.address import MlflowAway, tracking_address
from cliptea.tracking.deferred import SHORT_SECONDS, Entry, Receipt, defer, log_deferred, log_or_defer, receipt
from cliptea.uses import put_uses

__all__ = ["REPORT", "RESULTS", "ComparedRow", "Comparison", "ReportEntry", "catch_up", "compare", "compare_variants"]

REPORT, RESULTS = "report.html", "results.json"


@step()
def compare(
    run: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Artifact],
    cache: dsl.Input[dsl.Artifact],
    scores: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    from cliptea.steps.common import read, run_step, write
    from cliptea.steps.compare import compare_variants
    from cliptea.steps.evaluate import Evaluated
    from cliptea.steps.split import Splits
    from cliptea.steps.teacher import TeacherCache

    def work(present):
        from pathlib import Path

        from cliptea.storage import read_uri

        evaluations = [read(item, Evaluated) for item in scores]
        made = compare_variants(present, read(shards, Splits), read(cache, TeacherCache), evaluations)
        write(comparison, made)
        Path(report.path).write_bytes(read_uri(made.report, made.hashes["report"]))
        for name, value in made.best.items():
            metrics.log_metric(name, value)

    run_step("compare", work, run=run)


class ComparedRow(ResultRow):
    """A result row, with the name of the `ScoresEntry` that logs its model to MLflow."""

    telling: str  # this name is part of the promotion's fingerprint


class Comparison(BaseModel):
    """The output of the compare step."""

    report: str  # URIs in the store
    results: str
    hashes: dict[str, str]  # sha256 of both, in hex
    rows: list[ComparedRow]
    best: dict[str, float]  # mIoU and hIoU of the best student
    evaluation: str  # digest of how the models were measured: `Evaluated.protocol`
    stand_in: bool  # whether the teacher does not know the data, so that the results are meaningless
    missing: list[int] = []  # numbers of the parts that are not in it


def compare_variants(run: Run, splits: Splits, teacher: TeacherCache, evaluations: Sequence[Evaluated]) -> Comparison:
    """Write and log results.json and report.html, after the entries that earlier steps could not log to MLflow.

    Of a run in parts, they have the results of all parts that have come this far.
    """
    store, whole, run = open_store(), True, run.whole
    try:
        catch_up(run, SHORT_SECONDS)
    except MlflowAway as away:
        when = "later" if away.temporary else "once that is fixed and the run is started again"
        progress.warn(f"MLflow is not available ({away.what}); results will be logged {when}")
        whole = False
    evaluations = with_other_parts(store, run, evaluations)
    missing = lacking(run, evaluations)
    if missing:
        progress.warn(f"{missing_text(missing, run.part.of)}; the part that ends last compares all")
    done, evaluated, made = _report(store, run, splits, teacher, evaluations)
    entry = ReportEntry(report=done.fingerprint, splits=splits, teacher=teacher, evaluations=evaluations)
    if receipt(store, run, entry.name) is not None:
        if not made:
            progress.reused()
    elif whole:
        log_or_defer(store, run, entry)
    else:  # the report names MLflow runs that do not exist yet
        defer(store, run, entry)
    report, results = done.objects[REPORT], done.objects[RESULTS]
    uris = {"report": store.uri(report.key), "results": store.uri(results.key)}
    hashes = {"report": report.sha256, "results": results.sha256}
    progress.publish(**uris, **{f"{name}_sha256": sha256 for name, sha256 in hashes.items()})
    rows = [ComparedRow(**row.model_dump(), telling=item.telling) for item in evaluated for row in item.rows]
    return Comparison(
        **uris,
        hashes=hashes,
        rows=rows,
        best=scalars([best_of(run, rows)]),
        evaluation=evaluated[0].protocol,
        stand_in=teacher.tokens.info["stand_in"],
        missing=missing,
    )


def catch_up(run: Run, seconds: float | None = None) -> None:
    """Log the entries that steps of the run could not log to MLflow during an outage.

    Args:
        seconds: how long to wait for MLflow; defaults to `cliptea.outage.patience()`.

    Raises:
        TrackingError: MLflow is not available for longer than that, or rejects a request.
    """
    log_deferred(open_store(), run, (DataEntry, ScoresEntry, ReportEntry), seconds)


def _report(
    store: Store, run: Run, splits: Splits, teacher: TeacherCache, evaluations: Sequence[Evaluated]
) -> tuple[Manifest, list[Evaluated], bool]:
    """The report's manifest, the variants in order with the locations of their models, and whether the report is new.

    A report from an MLflow outage is replaced as soon as the locations are known.
    """
    order = {
        (member.group, member.variant, variant.seed): place
        for place, variant in enumerate(run.variants)
        for member in variant.members
    }
    first = [(order[item.rows[0].group, item.rows[0].variant, item.rows[0].seed], item) for item in evaluations]
    evaluated = [placed(store, run, item) for _, item in sorted(first, key=lambda pair: pair[0])]
    rows = [row for item in evaluated for row in item.rows]
    left_out = left_out_of(splits.named(run.config.data.name))
    fp = fingerprint(
        "compare",
        rows=[row.model_dump(exclude={"model_uri", "mlflow_run_id"}, exclude_defaults=True) for row in rows],
        manifests=[[one.fingerprint, one.inputs] for item in evaluated for one in item.manifests.values()],
        run=run.fingerprint,
        tracking=run.tracking_run,
        abouts=run.abouts,
        **({"left_out": left_out} if left_out else {}),
    )
    output = Output("compare", fp)

    def look(store: Store, output: Output) -> Manifest | None:
        found = find_whole(store, output)  # all of it is read in this step
        return found if found is not None and found.info["models"] == [row.model_uri for row in rows] else None

    put_uses(store, run, [output])
    done, made = make_once(store, output, lambda: _compare(store, output, run, splits, teacher, evaluated), look)
    return done, evaluated, made


def _compare(
    store: Store, output: Output, run: Run, splits: Splits, teacher: TeacherCache, evaluated: Sequence[Evaluated]
) -> Contents:
    from cliptea.report.page import build_report
    from cliptea.steps.gather import gather_context

    tracking = tracking_address()
    context = gather_context(store, run, splits, teacher, evaluated, tracking)
    files = {REPORT: build_report(context).encode(), RESULTS: dump_results(context.rows).encode()}
    objects = {name: put_object(store, f"{output.prefix}/{name}", data) for name, data in files.items()}
    return Contents(objects, {"models": [row.model_uri for row in context.rows]})


class ReportEntry(Entry):
    """Tables and report for the MLflow run of the pipeline run. Both name the runs of the variants that exist."""

    kind = "report"
    report: str  # fingerprint of the report
    splits: Splits
    teacher: TeacherCache
    evaluations: list[Evaluated]

    @property
    def name(self) -> str:
        return f"compare-{self.report}"

    @property
    def what(self) -> str:
        return "tables and report"

    def log(self, run: Run) -> Receipt:
        from cliptea.tracking.mlflow_client import connect
        from cliptea.tracking.runs import ChildRun, log_best, log_table

        store = open_store()
        done, evaluated, _ = _report(store, run, self.splits, self.teacher, self.evaluations)
        rows = [row for item in evaluated for row in item.rows]
        log_best(run, best_of(run, rows))
        files = {name: read_object(store, item) for name, item in done.objects.items()}
        parent, clip = ChildRun(connect(), run.tracking_run), self.teacher.clip
        parent.log_files(files)
        if clip.views:
            seconds = clip.seconds_for(self.teacher.tokens.info["views"])
            parent.log_result({"clip_hours": seconds / 3600}, {"clip_device": " or ".join(clip.devices)})
        for mark, mine in _by_setting(rows).items():
            log_table(run.tracking_run, [_line(row) for row in mine], f"variants{mark}.json")
            log_table(run.tracking_run, [line for row in mine for line in _class_lines(row)], f"classes{mark}.json")
        if trials := _trial_lines(run, rows):
            log_table(run.tracking_run, trials, "sweeps.json")
        return Receipt()


def _by_setting(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """The rows of each setting, by the end of a file name. No table may mix the two settings."""
    parts: dict[str, list[ResultRow]] = {"": [], TRANSDUCTIVE: []}
    for row in rows:
        parts[TRANSDUCTIVE if is_transductive(row.group) else ""].append(row)
    return {mark: mine for mark, mine in parts.items() if mine}


def _line(row: ResultRow) -> dict[str, str | int | float | None]:
    """A row without its classes, and with what was measured in columns of its own."""
    measured = {f"inference_{name}": getattr(row.inference, name, None) for name in Inference.model_fields}
    return row.model_dump(exclude={"per_class", "inference", "trial"}) | measured


def _trial_lines(run: Run, rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """A line for each trial of a sweep, best first. The val scores are means over seeds too, and choose nothing."""
    own = [row for row in rows if row.dataset == run.config.data.name]
    return [
        {
            "group": group,
            "sweep": sweep,
            "variant": trial.variant,
            "settings": trial.trial.words if trial.trial else "",
            "seeds": len(trial.seeds),
            "best": place == 0,
            "heldout_miou_seen": trial.held_out.mean,
            "heldout_miou_seen_sd": trial.held_out.sd,
            **{f"val_{name}": trial.scores[name].mean for name in ("hiou", "miou_unseen", "miou_seen")},
        }
        for (group, sweep), trials in judge(own).items()
        for place, trial in enumerate(summarise([row for seeds in trials for row in seeds]))
    ]


def _class_lines(row: ResultRow) -> list[dict[str, str | int | float | None]]:
    named = {"group": row.group, "variant": row.variant, "dataset": row.dataset, "seed": row.seed}
    return [{**named, "class": name, "iou": iou} for name, iou in row.per_class.items()]
