"""Validates nested settings as a `Config`, and says in one line what is wrong with them."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cliptea.addresses import MODELS, PLACES
from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.typed import key_of

__all__ = ["SHOWN", "one_of", "validated"]

SHOWN = 100  # characters of a refused value
WHOLE = "a whole number in digits, such as 1000"
EXPECTED = {  # in place of pydantic's words, by its types of errors
    "int_parsing": WHOLE,
    "int_type": WHOLE,
    "int_from_float": WHOLE,
    "float_parsing": "a number, such as 0.001",
    "float_type": "a number, such as 0.001",
    "bool_parsing": "true or false",
    "list_type": "a list in brackets",
    "tuple_type": "a list in brackets",
    "dict_type": "keys and values, such as {KEY: VALUE}",
    "model_type": "keys and values, such as {KEY: VALUE}",
    "address": PLACES,
    "model_address": MODELS,
}


def validated(delta: Mapping[str, Any], file: str = "", inside: Mapping[str, Any] | None = None) -> Config:
    """The config of these settings.

    Args:
        file: name of a preset file, which is named if the mistake is in it.
        inside: the settings of the preset alone.
    """
    try:
        return Config.model_validate(delta)
    except (ValidationError, ConfigError) as error:
        readable = error if isinstance(error, ConfigError) else _readable(error)
    if file:
        try:
            Config.model_validate(inside)
        except (ValidationError, ConfigError):
            raise ConfigError(f"{file}: {readable.what}", readable.expected, readable.todo) from None
    raise readable


def _readable(error: ValidationError) -> ConfigError:
    errors = [(key_of(one["loc"]), one) for one in error.errors()]
    # A value has an error for each alternative of its type. That it has another type tells least.
    alternatives = [one for one in errors if f"{one[0]}.".startswith(f"{errors[0][0]}.")]
    key, first = max(alternatives, key=lambda one: (not one[1]["type"].endswith("_type"), len(one[0])))
    if first["type"] == "extra_forbidden":
        known = list(_keys(Config))
        if key in known:  # a file has the key "train.lr", and not lr in train
            section, _, last = key.rpartition(".")
            return ConfigError(f"the setting {key} is written with dots", f"{section}: {{{last}: ...}} in a file")
        return ConfigError(f"the setting {key} does not exist", one_of(key, known))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return ConfigError(f"{key}.{message}" if key else message)
    given = repr(first["input"])
    given = given[1:-1] if isinstance(first["input"], str) else given
    given = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
    if first["type"] in EXPECTED:
        types = [one["type"] for _, one in alternatives if one["type"] in EXPECTED]
        expected = " or ".join(dict.fromkeys(EXPECTED[one] for one in types))
        example = f", such as {key}=[{given}]" if types == ["list_type"] and isinstance(first["input"], str) else ""
        return ConfigError(f"{key}={given} is refused", expected + example)
    return ConfigError(f"{key}={given} is refused: {message[0].lower()}{message[1:]}")


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from itertools.chain([prefix + name], _keys(kind, f"{prefix}{name}."))
        else:
            yield prefix + name


def one_of(name: str, valid: Sequence[str]) -> str:
    """What an error says was expected in place of a name: all valid ones if they are few, or else the nearest."""
    if len(valid) <= 12:
        return "one of " + ", ".join(valid)
    same = [one for one in valid if one.rpartition(".")[2] == name.rpartition(".")[2]]  # in another section
    near = same or difflib.get_close_matches(name, valid, n=1)
    return (
        f"an existing key, perhaps {' or '.join(near[:3])}" if near else "an existing key; `cliptea config` lists them"
    )
