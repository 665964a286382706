"""The promote step: the best model of a run becomes `champion` when it beats the present one."""

from __future__ import annotations

import json
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.errors import StorageError
from cliptea.manifest import fingerprint
from cliptea.storage import Store, open_store
from cliptea.tracking.champions import Score

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["best_row", "candidates", "promote"]


def promote(run: Run, comparison: dict[str, Any]) -> dict[str, Any]:
    """Register the run's best model; it becomes champion when it beats the one in office.

    The best model is that of the variant with the highest mean hIoU over its seeds, so that one lucky seed does not
    choose the variant; of its seeds the one with the highest. Ablations are no candidates: a variant with another
    method than the run's is there to be compared, not used.

    Args:
        run: the pipeline run, of which MLflow has been told all (see `cliptea.tracking.untold`).
        comparison: of the compare step.

    Raises:
        TrackingError: MLflow does not answer.
    """
    if comparison["stand_in"]:
        reason = "not promoted: with a stand-in for the teacher the numbers mean nothing"
        progress.note(reason)
        return {"promoted": False, "reason": reason}
    from cliptea.tracking.client import persist

    store = open_store()
    key = f"tracked/{run.tracking_run}/promotion-{fingerprint('promote', comparison=comparison)}.json"
    if store.size(key) is not None:
        progress.reused()
        return persist(lambda: _present(json.loads(store.get(key))))
    rows = candidates(run, comparison["rows"])
    if not rows:
        reason = "not promoted: every variant of the run is an ablation"
        progress.note(reason)
        return {"promoted": False, "reason": reason}
    placed = _placed(store, run, rows)
    result = persist(lambda: _promote(run, placed, comparison["evaluation"]))
    store.put(key, json.dumps(result).encode())
    return result


def candidates(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The result rows of students trained by the run's own method, on the data set itself."""
    own = {
        (member.group, member.variant, variant.seed)
        for variant in run.variants
        for member in variant.members
        if variant.config.method == run.config.method
    }
    dataset = run.config.data.dataset
    return [row for row in rows if row["dataset"] == dataset and (row["group"], row["variant"], row["seed"]) in own]


def best_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best seed of the variant with the highest mean hIoU."""
    variants: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        variants.setdefault((row["group"], row["variant"]), []).append(row)
    best = max(variants.values(), key=lambda seeds: fmean(_hiou(row) for row in seeds))
    return max(best, key=_hiou)


def _hiou(row: dict[str, Any]) -> float:
    return row["hiou"] or 0.0


def _placed(store: Store, run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; those that were made while MLflow was away are completed by what it has been told since."""
    from cliptea.tracking.untold import model_place, told

    placed = [row if row["mlflow_run_id"] else row | model_place(told(store, run, row["telling"])) for row in rows]
    lacking = len({row["model_uri"] for row in placed if not row["mlflow_run_id"]})
    if lacking:
        raise StorageError(f"MLflow has not been told of {lacking} model{'s' * (lacking != 1)}", todo="run again")
    return placed


def _present(decided: dict[str, Any]) -> dict[str, Any]:
    """Say which version is the champion by now: since the decision it may have been rolled back, or beaten."""
    from cliptea.tracking.client import connect
    from cliptea.tracking.registry import champion

    name, version, present = decided["model"], decided["version"], champion(connect(), decided["model"])
    now = "there is no champion" if present is None else f"champion is version {present}"
    progress.note(f"{name} version {version}, as decided before: {decided['reason']}; {now} now")
    return decided


def _promote(run: Run, rows: list[dict[str, Any]], evaluation: str) -> dict[str, Any]:
    from cliptea.tracking.client import connect
    from cliptea.tracking.registry import register, settle

    best = best_row(rows)
    client, name, run_id = connect(), run.config.promotion.model or f"cliptea-{best['dataset']}", best["mlflow_run_id"]
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    score = Score(_hiou(best), evaluation, run.config.promotion.margin)
    facts = {"backbone": best["backbone"], "variant": best["variant"]}
    version = register(client, name, source, run_id, score, facts)
    outcome = settle(client, name, version)
    told = f"{name} version {version}: {outcome.decision.reason}; champion is version {outcome.champion}"
    for one in (run.tracking_run, run_id):
        client.set_tag(one, "cliptea.promotion", told)
    progress.note(told)
    return {"model": name, "version": str(version), **outcome.decision._asdict()}
