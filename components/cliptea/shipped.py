"""The files of settings that cliptea ships: presets and groups of variants."""

from __future__ import annotations

from importlib import resources
from typing import Any

from cliptea.parse import parse_yaml

__all__ = ["read_yaml", "yaml_names"]


def yaml_names(folder: str) -> list[str]:
    """Names of the files in a folder of the package, without their suffix."""
    files = resources.files("cliptea").joinpath(folder).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_yaml(folder: str, name: str) -> dict[str, Any]:
    """The content of such a file. A key without a value stands for an empty mapping."""
    text = resources.files("cliptea").joinpath(folder, f"{name}.yaml").read_text(encoding="utf-8")
    return {key: value or {} for key, value in (parse_yaml(text, f"{folder}/{name}.yaml") or {}).items()}
