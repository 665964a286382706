"""Makes the best student the champion if it beats the current one. This is the last step of a run."""

from collections.abc import Sequence

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.errors import ClipteaError, TrackingError
from cliptea.evaluation.ranking import best_row, candidates, hiou
from cliptea.manifest import fingerprint
from cliptea.parts import numbers_of, ranges
from cliptea.run import Run
from cliptea.sealed import seal
from cliptea.steps.compare import ComparedRow, Comparison, catch_up
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
    if decided is not None:
        progress.reused()
        persist(lambda: _show(run, decided))
        return decided
    rows = candidates(run, comparison.rows)
    if not rows:
        return _refused("every variant of the run is an ablation")
    placed = _placed(store, run, rows)
    decided = persist(lambda: _promote(run, placed, comparison.evaluation))
    store.put(key, seal(decided))
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


def _placed(store: Store, run: Run, rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows. Rows from an MLflow outage get the model locations that were logged later."""
    placed = []
    for row in rows:
        logged = None if row.mlflow_run_id else receipt(store, run, row.telling)
        placed.append(row.model_copy(update=logged.place()._asdict()) if logged else row)
    lacking = len({row.model_uri for row in placed if not row.mlflow_run_id})
    if lacking:
        models = "1 model is" if lacking == 1 else f"{lacking} models are"
        first = next(row for row in placed if not row.mlflow_run_id)
        trained = f", the one of {first.group}/{first.variant} seed {first.seed} among them" if run.part.of > 1 else ""
        again = "run again" if run.part.of == 1 else "submit the parts again that trained them"
        raise TrackingError(f"{models} not logged in MLflow yet{trained}", todo=again)
    return placed


def _show(run: Run, decided: Promotion) -> None:
    """Log the current champion, which may have changed since the decision by a rollback or a better model."""
    from cliptea.tracking.mlflow_client import connect
    from cliptea.tracking.registry import champion
    from cliptea.tracking.runs import Tag

    client = connect()
    present = champion(client, decided.model)
    now = "there is no champion now" if present is None else f"the champion is now version {present}"
    told = f"{decided.model} version {decided.version}: already decided ({decided.reason}); {now}"
    client.set_tag(run.tracking_run, Tag.NOTE, told)
    progress.note(told)


def _promote(run: Run, rows: Sequence[ComparedRow], evaluation: str) -> Promotion:
    from cliptea.tracking.champions import Score
    from cliptea.tracking.mlflow_client import connect
    from cliptea.tracking.registry import register, settle
    from cliptea.tracking.runs import Tag

    best = best_row(rows)
    name = run.config.registered_model
    client, run_id = connect(), best.mlflow_run_id
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    score = Score(hiou(best), evaluation, run.config.promotion.margin)
    version = register(client, name, source, run_id, score, {"backbone": best.backbone, "variant": best.variant})
    outcome = settle(client, name, version)
    told = f"{name} version {version}: {outcome.decision.reason}; the champion is version {outcome.champion}"
    for one in (run.tracking_run, run_id):
        client.set_tag(one, "cliptea.promotion", told)
        client.set_tag(one, Tag.NOTE, told)
    progress.note(told)
    return Promotion(model=name, version=str(version), **outcome.decision._asdict())
