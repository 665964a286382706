"""Nested settings: merging them, and their keys with dots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten", "merge", "nested"]


def merge(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings. Neither argument is changed."""
    merged = dict(base)
    for key, value in delta.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as "train.lr": 0.002. An empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inside = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        flat |= inside or {prefix + key: value}
    return flat


def nested(key: str, value: Any) -> dict[str, Any]:
    """The setting "train.lr" as {"train": {"lr": value}}."""
    *outer, last = key.split(".")
    delta = {last: value}
    for part in reversed(outer):
        delta = {part: delta}
    return delta
