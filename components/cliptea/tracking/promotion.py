"""The promote step: the best model of a run becomes `champion` when it beats the present one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from cliptea import progress
from cliptea.manifest import fingerprint
from cliptea.storage import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from cliptea.runs import Run

__all__ = ["ALIAS", "Decision", "candidates", "decide", "promote"]

ALIAS = "champion"
VERSION = 2
HIOU_TAG, EVALUATION_TAG = "hiou", "cliptea.evaluation"


class Decision(NamedTuple):
    promoted: bool
    reason: str


def decide(hiou: float, evaluation: str, champion: tuple[float, str] | None, margin: float) -> Decision:
    """Whether a model takes the champion's place.

    Args:
        hiou: the candidate's hIoU, 0-1.
        evaluation: fingerprint of the evaluation set and protocol that gave it.
        champion: the same two of the present champion, or None.
        margin: by how much, at least, the candidate must be better.
    """
    if champion is None:
        return Decision(True, f"first champion, hIoU {hiou:.4f}")
    old, measured_on = champion
    if measured_on != evaluation:
        return Decision(False, "the champion was measured on another evaluation set: the two cannot be compared")
    if hiou > old + margin:
        return Decision(True, f"hIoU {hiou:.4f} beats the champion's {old:.4f} by more than {margin:g}")
    return Decision(False, f"hIoU {hiou:.4f} does not beat the champion's {old:.4f} by more than {margin:g}")


def promote(run: Run, comparison: dict[str, Any]) -> dict[str, Any]:
    """Register the run's best model (highest hIoU) and move the alias when `decide` says so.

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

    best = max(rows, key=lambda row: row["hiou"] or 0.0)
    hiou = best["hiou"] or 0.0
    client = connect()
    name = f"cliptea-{best['dataset']}"
    version = _register(client, name, best, evaluation)
    champion = _champion(client, name)
    if champion is not None and champion.version == version.version:
        return {
            "model": name,
            "version": str(version.version),
            "promoted": False,
            "reason": "is the champion already",
        }
    tags = champion.tags if champion else {}
    old = (float(tags[HIOU_TAG]), tags[EVALUATION_TAG]) if champion else None
    decision = decide(hiou, evaluation, old, run.config.promotion.margin)
    if decision.promoted:
        client.set_registered_model_alias(name, ALIAS, version.version)
    client.set_tag(run.tracking_run, "cliptea.promotion", f"{name} version {version.version}: {decision.reason}")
    progress.note(f"{name} version {version.version}: {decision.reason}")
    return {"model": name, "version": str(version.version), **decision._asdict()}


def _register(client: MlflowClient, name: str, row: dict[str, Any], evaluation: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(row['mlflow_run_id']).info.artifact_uri}/model"
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == source:
            return version
    tags = {
        HIOU_TAG: repr(row["hiou"]),
        EVALUATION_TAG: evaluation,
        "backbone": row["backbone"],
        "variant": row["variant"],
    }
    return client.create_model_version(name, source=source, run_id=row["mlflow_run_id"], tags=tags)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if "not found" not in str(error):
            raise
        return None
