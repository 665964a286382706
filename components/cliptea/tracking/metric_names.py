"""Metrics and parameters under names that MLflow takes, in calls that are not too long for it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param

from cliptea.data.catalogue import Catalogue
from cliptea.nested import flatten

__all__ = ["CLASSES", "chunks", "log_params", "metric_name", "renamed_metrics"]

PARAMS_PER_CALL = 100  # the server's limit
LONGEST_NAME = 250  # characters of a metric or parameter
CLASSES = "val_iou"  # group of the IoU of each class; MLflow sorts groups by name, and this is the last one


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log nested parameters as "train.lr": "0.002", without empty mappings. Existing parameters are kept."""
    items = [Param(metric_name(key), str(value)[:6000]) for key, value in flatten(params).items() if value != {}]
    for chunk in chunks(items, PARAMS_PER_CALL):
        client.log_batch(run_id, params=chunk)


def chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def metric_name(name: str, *parts: str) -> str:
    """The name under which MLflow takes a metric or parameter: `name` itself, unless MLflow would refuse it.

    MLflow refuses some characters, names that look like paths, and long ones. These characters are written as their
    number, such as `:2f:` for a slash, so that different names stay different. A name that is still too long keeps its
    beginning and gets a hash.

    Args:
        name: the name, in which `/` separates groups of metrics.
        parts: further groups, such as names of classes, in which `/` does not separate anything.
    """
    groups = [*name.split("/"), *(re.sub(r"[/:]", _number, part) for part in parts)]
    whole = "/".join(_group(group) for group in groups)
    if len(whole) <= LONGEST_NAME:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return f"{whole[: LONGEST_NAME - 15]}:{digest}:"


def renamed_metrics(catalogue: Catalogue) -> dict[str, str]:
    """Classes with names that MLflow would refuse in a metric, and the metrics of their IoU."""
    metrics = {name: metric_name(CLASSES, name) for name in catalogue.classes}
    return {name: metric for name, metric in metrics.items() if metric != f"{CLASSES}/{name}"}


def _group(text: str) -> str:
    """A part of a name between slashes."""
    text = re.sub(r"[^\w\-. :]", _number, text)
    if text.strip(".") and text == text.strip():
        return text
    return re.sub(r"^[. ]|[. ]$", _number, text) or ":empty:"


def _number(found: re.Match[str]) -> str:
    return f":{ord(found[0]):x}:"
