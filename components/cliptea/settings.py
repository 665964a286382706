"""Settings are merged as defaults <- preset <- overrides <- variant and validated as one `Config`."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.messages import holds_secret

__all__ = ["apply_delta", "flatten", "load", "merge", "presets", "variant_group", "variant_groups"]

SECRET = re.compile(r"passw|secret|credential|access_?key|api_?key|private", re.IGNORECASE)


def load(preset: str = "demo", overrides: Sequence[str] = ()) -> Config:
    """Resolve a preset and overrides of the form "a.b=c" into a validated config.

    Raises:
        ConfigError: the preset or a key does not exist, a type is wrong, or settings contradict each other; one line.
    """
    if preset not in presets():
        raise ConfigError(f"the preset {preset!r} does not exist", _one_of(preset, presets()))
    delta = _read_yaml("presets", preset) | {"preset": preset}
    for override in overrides:
        delta = merge(delta, _parse(override))
    config = _validate(delta)
    for name in config.variants:
        variant_group(name)
    if config.teacher.weights is None:
        raise ConfigError(
            "teacher.weights is not set",
            "the CLIP weights to distil: a file, a folder, an open_clip tag such as openai, or demo",
            "add --set teacher.weights=... (demo is a small stand-in that is meaningless on real photos)",
        )
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
    return {key: value or {} for key, value in (yaml.safe_load(text) or {}).items()}


def _parse(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if holds_secret(override) or holds_secret(str(value)):  # YAML may spell an address so that only its value shows it
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
    return ConfigError(f"{key}={first['input']!r} is refused: {message[0].lower()}{message[1:]}")


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
