"""Reads the YAML file of a placement, with errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cliptea.errors import ConfigError
from cliptea.settings import merge
from cliptea_pipeline.placement import Placement, Toleration

__all__ = ["read_placement"]

WORDS = {  # plain words for pydantic's errors
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "string_type": "expected text; put it in quotes",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "list_type": "expected a list",
}


class _Loader(yaml.SafeLoader):
    """Rejects repeated keys in a mapping, of which YAML would silently use the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} appears twice", problem_mark=key.start_mark)
        return node


def read_placement(file: Path | None) -> Placement:
    """The placement in a YAML file, which only contains differences from the defaults. None means the defaults.

    Raises:
        ConfigError: it cannot be read, or has unknown keys or invalid values; one line.
    """
    if file is None:
        return Placement()
    try:
        read = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the placement {file}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"cannot read the placement {file}{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(read, dict):
        raise ConfigError(f"the placement {file} is not a mapping", "keys such as image, store and steps")
    try:
        return Placement.model_validate(merge(Placement().model_dump(), read))
    except ValidationError as error:
        raise _readable(error, file) from None


def _readable(error: ValidationError, file: Path) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{file}: unknown key {key}", "one of " + ", ".join(_keys(path[:-1])))
    message = WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "value_error":
        return ConfigError(f"{file}: {f'{key}: ' if key else ''}{message}")
    return ConfigError(f"{file}: {key}={first['input']!r} is refused: {message[0].lower()}{message[1:]}")


def _keys(section: list[str]) -> Iterator[str]:
    """The keys that are allowed in a section of the file."""
    model: Any = Placement()
    for part in section:
        model = Toleration() if part.isdigit() else getattr(model, part)
        if part == "tolerations":
            model = Toleration()
    yield from type(model).model_fields
