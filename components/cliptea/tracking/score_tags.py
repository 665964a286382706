"""The tags of a registered version that hold its score, and their sha256, so that damage is noticed.

Scores are decided and reported from these tags alone. A version without the sha256 has the score that a user gave it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion

from cliptea.tracking.champions import Score

__all__ = ["DAMAGED", "is_damaged", "is_scored", "score_of", "score_tags"]

HIOU_TAG, EVALUATION_TAG, MARGIN_TAG = "hiou", "cliptea.evaluation", "cliptea.margin"
DIGEST_TAG = "cliptea.score_sha256"
DAMAGED = (
    f"its tags {HIOU_TAG}, {EVALUATION_TAG} and {MARGIN_TAG} in MLflow do not match their sha256, so it counts as not "
    "measured. Start the run of this model again: it writes them anew. If you have changed them yourself, delete the "
    f"tag {DIGEST_TAG}"
)


def score_tags(score: Score, run_id: str | None) -> dict[str, str]:
    """The tags for a score, in the order in which they must be set: the sha256 comes last.

    Args:
        run_id: the MLflow run whose model the version is. The sha256 covers it, and a copy of the version keeps it.
    """
    tags = {HIOU_TAG: repr(score.hiou), EVALUATION_TAG: score.evaluation, MARGIN_TAG: repr(score.margin)}
    return tags | {DIGEST_TAG: _digest(tags, run_id)}


def score_of(version: ModelVersion) -> Score:
    """The score of a version. It has no hIoU if a user registered it, if its tag is no number, or if it is damaged."""
    tags = version.tags
    hiou = None if is_damaged(version) else _number(tags.get(HIOU_TAG))
    return Score(hiou, tags.get(EVALUATION_TAG, ""), _number(tags.get(MARGIN_TAG)) or 0.0)


def is_scored(version: ModelVersion) -> bool:
    return HIOU_TAG in version.tags


def is_damaged(version: ModelVersion) -> bool:
    """Whether the score does not match its sha256. While a run writes another score, this is so for a moment."""
    found = version.tags.get(DIGEST_TAG)
    return found is not None and found != _digest(version.tags, version.run_id)


def _digest(tags: Mapping[str, str], run_id: str | None) -> str:
    content = [run_id or "", *(tags.get(key) for key in (HIOU_TAG, EVALUATION_TAG, MARGIN_TAG))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _number(tag: str | None) -> float | None:
    try:
        value = float(tag or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
