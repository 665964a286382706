"""Makes the best student the champion if it beats the current one. This is the last step of a run."""

import hashlib
from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress, watchdog
from cliptea.errors import ClipteaError, TrackingError
from cliptea.evaluation.ranking import best_row, candidates, hiou
from cliptea.manifest import Output, find, fingerprint, read_object
from cliptea.model_address import address, predict_command
from cliptea.parts import numbers_of, ranges
from cliptea.report.version import BEST, LOSER, SHIP, with_version
from cliptea.run import Run
from cliptea.sealed import seal
from cliptea.steps.compare import REPORT, ComparedRow, Comparison, catch_up
from cliptea.steps.component import step
from cliptea.steps.part_results import missing_text
from cliptea.storage import Store, open_store
from cliptea.tracking.deferred import read_record, receipt, receipt_key

__all__ = ["Promotion", "promote", "promote_best"]


@step()
def promote(run: dsl.Input[dsl.Artifact], comparison: dsl.Input[dsl.Artifact], decision: dsl.Output[dsl.Artifact]):
    from cliptea.steps.common import read, run_step, write
    from cliptea.steps.compare import Comparison
    from cliptea.steps.promote import promote_best
    from cliptea.tracking.state import mark_complete

    def work(present):
        write(decision, promote_best(present, read(comparison, Comparison)))
        mark_complete(present.tracking_run)

    run_step("promote", work, run=run)


class Promotion(BaseModel):
    """The decision about the best model of a run."""

    promoted: bool
    reason: str
    model: str = ""  # name in MLflow's registry; empty if no model was registered
    version: str = ""
    variant: str = ""  # label of its result rows
    seed: int = 0


def promote_best(run: Run, comparison: Comparison) -> Promotion:
    """Register the best model of the run, and make it the champion if it beats the current one.

    Entries that earlier steps could not log to MLflow are logged first.

    Of a run in parts, only the part whose comparison has all students does so.

    Raises:
        TrackingError: MLflow is not available, or a model of the run is not logged there yet.
        ClipteaError: the comparison lacks a part that it needs.
    """
    run = run.whole
    catch_up(run)
    _require_parts(run, comparison.missing)
    if comparison.stand_in:
        return _refused("results with a stand-in teacher are meaningless")
    if comparison.missing:
        return _refused(missing_text(comparison.missing, run.part.of))
    from cliptea.tracking.mlflow_client import persist

    store = open_store()
    compared = comparison.model_dump(exclude={"hashes", "missing"})
    key = receipt_key(run, f"promotion-{fingerprint('promote', comparison=compared)}")
    decided = read_record(store, key, Promotion)
    if decided is not None and persist(partial(_registered, store, run, comparison.rows, decided)):
        progress.reused()
    else:
        rows = candidates(run, comparison.rows)
        if not rows:
            return _refused("every variant of the run is an ablation")
        if all(row.hiou is None for row in rows):
            return _refused(
                "no student has an hIoU, because no val image shows an unseen class, or none shows a seen class"
            )
        placed = _placed(store, run, rows)
        decided = persist(lambda: _promote(run, placed, comparison.evaluation))
        store.put(key, seal(decided))
    persist(lambda: _tell(store, run, comparison, decided))
    return decided


def _require_parts(run: Run, missing: Sequence[int]) -> None:
    """Fail if the comparison lacks a part that has run before, so that nobody takes it for the comparison of all."""
    part = run.part
    if part.needs and {*missing} & {*numbers_of(part.needs, part.of)}:
        raise ClipteaError(
            f"the comparison is not complete: {missing_text(missing, part.of)}, since data, settings or the version of "
            "cliptea have changed after they ran",
            "the same ones for all parts",
            f"submit them again: add --parts {ranges(sorted({*missing, part.number}))}",
        )


def _refused(why: str) -> Promotion:
    progress.note(f"not promoted: {why}")
    return Promotion(promoted=False, reason=f"not promoted: {why}")


def _logged(store: Store, run: Run, rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows whose models are in MLflow. Rows from an MLflow outage get the locations that were logged later."""
    placed = []
    for row in rows:
        logged = None if row.mlflow_run_id else receipt(store, run, row.telling)
        placed.append(row.model_copy(update=logged.place()._asdict()) if logged else row)
    return [row for row in placed if row.mlflow_run_id]


def _placed(store: Store, run: Run, rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows with the locations of their models in MLflow, where all of them have to be."""
    placed = _logged(store, run, rows)
    known = {(row.label, row.seed) for row in placed}
    missing = [row for row in rows if (row.label, row.seed) not in known]
    lacking = len({row.model_uri for row in missing})
    if lacking:
        models = "1 model is" if lacking == 1 else f"{lacking} models are"
        trained = f", including that of {missing[0].label} seed {missing[0].seed}" if run.part.of > 1 else ""
        again = "run again" if run.part.of == 1 else "submit again the parts that trained them"
        raise TrackingError(f"{models} not logged in MLflow yet{trained}", todo=again)
    return placed


def _registered(store: Store, run: Run, rows: Sequence[ComparedRow], decided: Promotion) -> bool:
    """Whether the version is still the model of this run, with its score.

    A version may be deleted, and its number given again, or its score may be damaged.
    """
    from cliptea.tracking.mlflow_client import connect
    from cliptea.tracking.registry import registered_by

    own = [
        row.mlflow_run_id
        for row in _logged(store, run, rows)
        if (row.label, row.seed) == (decided.variant, decided.seed)
    ]
    return registered_by(connect(), decided.model, decided.version) in own


def _tell(store: Store, run: Run, comparison: Comparison, decided: Promotion) -> None:
    """Say in MLflow and in the report which version the model of this run is, and which one is the champion now.

    That may have changed since the decision, by a rollback or a better model.
    """
    from cliptea.tracking.database import workdir_of
    from cliptea.tracking.mlflow_client import connect
    from cliptea.tracking.registry import champion
    from cliptea.tracking.run_times import Tag
    from cliptea.tracking.runs import ChildRun

    client = connect()
    present = str(champion(client, decided.model) or "")
    sentence = _sentence(decided, present)
    progress.note(sentence)
    to_ship = present or decided.version
    progress.publish(model=address(decided.model, to_ship), ship=sentence)
    sentence = f"At the end of this run, {sentence}"  # the report and MLflow keep it when the champion changes later
    logged = _logged(store, run, comparison.rows)
    mine = [row for row in logged if (row.label, row.seed) == (decided.variant, decided.seed)]
    scores = ", ".join(f"{name} {100 * value:.1f} %" for name, value in _scores(mine[0]) if value is not None)
    student = f"{decided.variant} seed {decided.seed}"
    link = f"[{decided.model} version {decided.version}](#/models/{quote(decided.model)}/versions/{decided.version})"
    workdir = workdir_of(client.tracking_uri)
    command, own, shown = predict_command(decided.model, to_ship, workdir), "", ""
    if to_ship != decided.version:
        own = predict_command(decided.model, decided.version, workdir)
        shown = f"The champion: `{command}`\n\nThis run's best: `{own}`"
    heading = BEST if not present else LOSER if own else SHIP
    first = f"**{heading}** {student}, {scores}: {link}. {sentence}"
    client.set_tag(run.tracking_run, Tag.NOTE, f"{first}\n\n{shown or f'`{command}`'}")
    for run_id, label in {row.mlflow_run_id: row.label for row in reversed(logged)}.items():
        told = sentence if run_id == mine[0].mlflow_run_id else f"The best student of this run is {student}, {link}."
        client.set_tag(run_id, Tag.NOTE, f"{run.abouts[label]}. {told}")
        watchdog.alive()  # there may be thousands
    output = Output("compare", comparison.report.rsplit("/", 2)[1])
    if done := find(store, output):  # its report may be newer than the one in the comparison, after an outage
        page = read_object(store, done.objects[REPORT]).decode()
        report = with_version(page, heading, sentence, command, own).encode()
        digest = hashlib.sha256(report).hexdigest()
        key = f"{output.prefix}/shipped-{digest[:16]}.html"
        if store.entry(key) is None or store.get(key) != report:
            store.put(key, report)
        progress.publish(report=store.uri(key), report_sha256=digest)
        ChildRun(client, run.tracking_run).log_files({REPORT: report})


def _sentence(decided: Promotion, champion: str) -> str:
    version = f"{decided.model} version {decided.version}"
    if not champion:
        return f"{version} was registered ({decided.reason}). There is no champion now."
    if champion == decided.version:
        return f"{version} is the champion ({decided.reason})."
    was, now = ("was the champion", "is now") if decided.promoted else ("is not the champion", "is")
    return f"{version} {was} ({decided.reason}). The champion {now} version {champion}: ship that one."


def _scores(row: ComparedRow) -> list[tuple[str, float | None]]:
    return [("hIoU", row.hiou), ("unseen", row.miou_unseen), ("seen", row.miou_seen)]


def _promote(run: Run, rows: Sequence[ComparedRow], evaluation: str) -> Promotion:
    from cliptea.tracking.champions import Score
    from cliptea.tracking.mlflow_client import connect
    from cliptea.tracking.registry import register, settle

    best = best_row(rows)
    client, name, run_id = connect(), run.config.registered_model, best.mlflow_run_id
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    score = Score(hiou(best), evaluation, run.config.promotion.margin)
    version = register(client, name, source, run_id, score, {"backbone": best.backbone, "variant": best.variant})
    outcome = settle(client, name, version)
    client.set_tag(run_id, "cliptea.promotion", f"{name} version {version}: {outcome.decision.reason}")
    return Promotion(model=name, version=str(version), variant=best.label, seed=best.seed, **outcome.decision._asdict())
