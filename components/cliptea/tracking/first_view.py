"""The view of MLflow's page of runs that an experiment opens with: what its columns and charts are.

MLflow keeps a view that a user shares in a tag of the experiment, and its page of runs opens it by the tag's name. We
write such a tag: the best hIoU first, a column for each score, and the charts of scores before all others.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["VIEW_TAG", "first_view", "view_page"]

VIEW = "scores"  # name of the view
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
SCORES = ("hiou", "miou_unseen", "miou_seen", "pacc")
SPEED = ("inference/images_per_second", "inference/latency_ms")
RUN, MODELS = "attributes.`Run Name`", "attributes.`Models`"  # columns
MODEL_METRICS = "Model metrics"  # MLflow's section of charts of metrics without a group
STARTED = (MODEL_METRICS, "inference")  # sections that are there from the start; MLflow adds the others below them


def view_page(experiment: str | int) -> str:
    """The page of an experiment's runs with this view, below the address of MLflow."""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def first_view() -> str:
    """The value of the tag."""
    scores = [f"metrics.`{name}`" for name in (*SCORES, SPEED[0])]
    tags = [f"tags.`{name}`" for name in ("parameters", "backbone", "group")]
    charts = [_chart(name, MODEL_METRICS) for name in SCORES] + [_chart(name, "inference") for name in SPEED]
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": "metrics.`hiou`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [MODELS, *scores, *tags],
        "columnOrder": ["0", RUN, MODELS, *scores, "runDateAndNestInfo", "duration", *tags],  # "0": boxes to tick
        "columnWidths": {RUN: 250, MODELS: 210, scores[-1]: 240},
        "compareRunSections": [{"uuid": name, "name": name, "display": True, "isReordered": True} for name in STARTED],
        "compareRunCharts": charts,
        "isAccordionReordered": True,
    }
    return json.dumps(state)


def _chart(metric: str, section: str) -> dict[str, Any]:
    return {
        "uuid": metric,
        "type": "BAR",
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": True,
        "displayName": metric.rpartition("/")[2],
        "metricKey": metric,
    }
