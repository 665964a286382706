"""Reads the YAML file of a placement, with errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cliptea.errors import ConfigError
from cliptea.nested import merge
from cliptea.parse import parse_yaml, read_text
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


def read_placement(file: Path | None) -> Placement:
    """The placement in a YAML file, which only contains differences from the defaults. None means the defaults.

    Raises:
        ConfigError: it cannot be read, or has unknown keys or invalid values; one line.
    """
    if file is None:
        return Placement()
    try:
        text = read_text(file, "the placement").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the placement {file}: {error}") from None
    read = parse_yaml(text, f"the placement {file}") or {}
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
        model = Toleration(operator="Exists") if part.isdigit() else getattr(model, part)
        if part == "tolerations":
            model = Toleration(operator="Exists")
    yield from type(model).model_fields
