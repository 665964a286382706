"""The promote step: the best model of a run becomes `champion` when it beats the present one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.manifest import fingerprint
from cliptea.storage import open_store
from cliptea.tracking.champions import Score

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["candidates", "promote"]

VERSION = 2


def promote(run: Run, comparison: dict[str, Any]) -> dict[str, Any]:
    """Register the run's best model (highest hIoU); it becomes champion when it beats the one in office.

    Ablations are no candidates: a variant with another method than the run's is there to be compared, not used.
    """
    if comparison["stand_in"]:
        reason = "not promoted: with a stand-in for the teacher the numbers mean nothing"
        progress.note(reason)
        return {"promoted": False, "reason": reason}
    store = open_store()
    key = f"tracked/{run.tracking_run}/promotion-{fingerprint('promote', VERSION, comparison=comparison)}.json"
    if store.size(key) is not None:
        progress.reused()
        return json.loads(store.get(key))
    rows = candidates(run, comparison["rows"])
    if not rows:
        reason = "not promoted: every variant of the run is an ablation"
        progress.note(reason)
        return {"promoted": False, "reason": reason}
    result = _promote(run, rows, comparison["evaluation"])
    store.put(key, json.dumps(result).encode())
    return result


def candidates(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The result rows of students trained by the run's own method, on the data set itself."""
    own = {
        (member.group, member.variant, variant.seed)
        for variant in run.variants
        for member in variant.members
        if variant.config(run.config).method == run.config.method
    }
    dataset = run.config.data.dataset
    return [row for row in rows if row["dataset"] == dataset and (row["group"], row["variant"], row["seed"]) in own]


def _promote(run: Run, rows: list[dict[str, Any]], evaluation: str) -> dict[str, Any]:
    from cliptea.tracking.client import connect
    from cliptea.tracking.registry import register, settle

    best = max(rows, key=lambda row: row["hiou"] or 0.0)
    client, name, run_id = connect(), run.config.promotion.model or f"cliptea-{best['dataset']}", best["mlflow_run_id"]
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    score = Score(best["hiou"] or 0.0, evaluation, run.config.promotion.margin)
    facts = {"backbone": best["backbone"], "variant": best["variant"]}
    version = register(client, name, source, run_id, score, facts)
    outcome = settle(client, name, version)
    told = f"{name} version {version}: {outcome.decision.reason}; champion is version {outcome.champion}"
    for one in (run.tracking_run, run_id):
        client.set_tag(one, "cliptea.promotion", told)
    progress.note(told)
    return {"model": name, "version": str(version), **outcome.decision._asdict()}
