"""Settings are merged as defaults <- preset <- overrides <- variant and validated as one `Config`."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.messages import holds_secret
from cliptea.parse import parse_yaml

__all__ = [
    "apply_delta",
    "flatten",
    "load",
    "load_without_teacher",
    "merge",
    "presets",
    "variant_group",
    "variant_groups",
]

SHOWN = 100  # characters of a refused value
SECRET = re.compile(r"passw|secret|credential|access_?key|api_?key|private", re.IGNORECASE)


def load(preset: str = "demo", overrides: Sequence[str] = ()) -> Config:
    """Resolve a preset and overrides of the form "a.b=c" into a validated config.

    Raises:
        ConfigError: the preset or a key does not exist, a type is wrong, settings contradict each other, or no weights
            of CLIP are set; one line.
    """
    config = load_without_teacher(preset, overrides)
    if config.teacher.weights is None:
        raise ConfigError(
            "teacher.weights is not set",
            "the CLIP weights to distil: a file, a folder, an open_clip tag such as openai, or demo",
            "add --set teacher.weights=... (demo is a small stand-in that is meaningless on real photos)",
        )
    return config


def load_without_teacher(preset: str, overrides: Sequence[str]) -> Config:
    """As `load`, for what needs no CLIP."""
    if preset not in presets():
        raise ConfigError(f"the preset {preset!r} does not exist", _one_of(preset, presets()))
    delta = _read_yaml("presets", preset) | {"preset": preset}
    for override in overrides:
        delta = merge(delta, _parse(override))
    config = _validate(delta)
    for name in config.variants:
        variant_group(name)
    return config


def apply_delta(config: Config, delta: Mapping[str, Any]) -> Config:
    """Apply a variant's nested delta to a resolved config, so that it overrides everything else, and validate again."""
    return _validate(merge(config.model_dump(), delta))


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


def presets() -> list[str]:
    """Names of the shipped presets."""
    return _yaml_names("presets")


def variant_groups() -> list[str]:
    """Names of the shipped variant groups."""
    return _yaml_names("variants")


def variant_group(name: str) -> dict[str, dict[str, Any]]:
    """Variants of a group ("table3") or one of them ("table3/no_ce"): variant name -> config delta."""
    group, _, single = name.partition("/")
    if group not in variant_groups():
        raise ConfigError(f"the variant group {group!r} does not exist", _one_of(group, variant_groups()))
    variants = _read_yaml("variants", group)
    if not single:
        return variants
    if single not in variants:
        raise ConfigError(f"group {group} has no variant {single!r}", _one_of(single, list(variants)))
    return {single: variants[single]}


def _yaml_names(folder: str) -> list[str]:
    files = resources.files("cliptea").joinpath(folder).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def _read_yaml(folder: str, name: str) -> dict[str, Any]:
    text = resources.files("cliptea").joinpath(folder, f"{name}.yaml").read_text(encoding="utf-8")
    return {key: value or {} for key, value in (parse_yaml(text, f"{folder}/{name}.yaml") or {}).items()}


def _parse(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    value = "" if holds_secret(override) else _value(key, text)
    if holds_secret(f"{override} {value}"):  # YAML may spell an address so that only its value shows it
        raise ConfigError(
            f"{'a setting' if '://' in key else key} holds an address with a user, password or signature, "
            "and settings are printed and stored",
            "an address without credentials",
            "set credentials as environment variables, see docs/environment.md",
        )
    if not equals or not key:
        raise ConfigError(f"cannot read the setting {override!r}", "key=value, such as train.iterations=200")
    if SECRET.search(key):
        raise ConfigError(
            f"the setting {key!r} looks like a secret, and settings are printed and stored",
            "secrets in the environment only",
            "see docs/environment.md for the variables",
        )
    if key == "preset":
        raise ConfigError("preset cannot be overridden with --set", "the preset's name in --preset")
    *outer, last = key.split(".")
    delta = {last: value}
    for part in reversed(outer):
        delta = {part: delta}
    return delta


def _value(key: str, text: str) -> Any:
    """The value that was typed for a setting. It is the text itself, unless the setting can be a list or a mapping."""
    kinds = _kinds(Config)
    for part in key.split("."):
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    if text.lstrip()[:1] in ("[", "{") and any(_holds(kind) for kind in kinds):
        example = 'a list such as [sky, "red, white"] or a mapping such as {lr: 0.01}'
        return _plain(parse_yaml(text, f"the value of {key}", example, typed=False), kinds)
    return _plain(text, kinds)


def _plain(value: Any, kinds: list[Any]) -> Any:
    """`value` with the texts null, true and false replaced where a setting can be that. Pydantic reads the numbers."""
    if isinstance(value, str):
        if NoneType in kinds and value in ("null", "~", ""):
            return None
        return value.lower() == "true" if bool in kinds and value.lower() in ("true", "false") else value
    if isinstance(value, dict):
        return {
            key: _plain(item, [inner for kind in kinds for inner in _inside(kind, key)]) for key, item in value.items()
        }
    inner = [
        inner for kind in kinds if get_origin(kind) in (list, tuple) for one in get_args(kind) for inner in _kinds(one)
    ]
    return [_plain(item, inner) for item in value]


def _kinds(kind: Any) -> list[Any]:
    """The alternatives of a type: int and None for `Annotated[int, ...] | None`."""
    if get_origin(kind) is Annotated:
        return _kinds(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for one in get_args(kind) for inner in _kinds(one)]
    return [kind]


def _inside(kind: Any, key: str) -> list[Any]:
    """The alternatives of the value under `key` in a section or mapping."""
    if get_origin(kind) is dict:
        return _kinds(get_args(kind)[1])
    fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
    return _kinds(fields[key].annotation) if key in fields else []


def _holds(kind: Any) -> bool:
    return get_origin(kind) in (dict, list, tuple) or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _validate(delta: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(delta)
    except ValidationError as error:
        raise _readable(error) from None


def _readable(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"the setting {key} does not exist", _one_of(key, list(_keys(Config))))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return ConfigError(f"{key}.{message}" if key else message)
    given = repr(first["input"])
    given = given[1:-1] if isinstance(first["input"], str) else given
    given = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
    return ConfigError(f"{key}={given} is refused: {message[0].lower()}{message[1:]}")


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from itertools.chain([prefix + name], _keys(kind, f"{prefix}{name}."))
        else:
            yield prefix + name


def _one_of(name: str, valid: Sequence[str]) -> str:
    if len(valid) <= 12:
        return "one of " + ", ".join(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    return f"an existing key, perhaps {near[0]}" if near else "an existing key; `cliptea config` lists them"
