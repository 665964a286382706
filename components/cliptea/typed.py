"""What the text of a setting means. The type of the setting decides: `010` is a folder, or the number ten."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from cliptea.config import Config, Group
from cliptea.parse import parse_yaml

__all__ = ["key_of", "kinds_of", "plain_settings", "plain_value", "plain_variants", "typed_value", "without_free_names"]


def without_free_names(keys: Sequence[str]) -> list[str]:
    """The keys of a setting without those that name classes, variants and the like, which can be any words."""
    kinds, found = _kinds(Config), []
    for key in keys:
        if not any(get_origin(kind) is dict for kind in kinds):
            found.append(key)
        kinds = [inner for kind in kinds for inner in _inside(kind, key)]
    return found


def key_of(place: Sequence[str | int]) -> str:
    """The key of the setting at the place of one of pydantic's errors.

    Where a type has alternatives, a place names one of them after the setting, which the key does not.
    """
    kinds, key, parts = _kinds(Config), [], iter(place)
    for part in parts:
        key.append(str(part))
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
        if sum(kind is not NoneType for kind in kinds) > 1:
            next(parts, None)
    return ".".join(key)


def typed_value(key: str, text: str) -> Any:
    """The value that was typed for a setting. It is the text itself, unless the setting can be a list or a mapping.

    Raises:
        ConfigError: a list or mapping cannot be read.
    """
    kinds = kinds_of(key)
    if text.lstrip()[:1] in ("[", "{") and any(_holds(kind) for kind in kinds):
        example = 'a list such as [sky, "red, white"] or a mapping such as {lr: 0.01}'
        return _plain(parse_yaml(text, f"the value of {key}", example, typed=False, comments=False), kinds)
    return text if text == "~" and str in kinds else _plain(text, kinds)  # the home folder, and not the null of YAML


def kinds_of(key: str) -> list[Any]:
    """The types that a setting can have, such as int and None. Empty if there is no such setting."""
    kinds = _kinds(Config)
    for part in key.split("."):
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    return kinds


def plain_value(key: str, value: Any) -> Any:
    """The value of a setting in a list of values of a file, which was read as text."""
    return _plain(value, kinds_of(key))


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, read as texts, with the values that `typed_value` would give them."""
    return _plain(settings, _kinds(Config))


def plain_variants(variants: dict[str, Any]) -> dict[str, Any]:
    """The same for a file of variants."""
    return _plain(variants, _kinds(Group))


def _plain(value: Any, kinds: list[Any]) -> Any:
    """`value` with the texts null, true and false replaced where a setting can be that. Pydantic reads the numbers."""
    if isinstance(value, str):
        if NoneType in kinds and value in ("null", "~", ""):
            return None
        if value == "" and any(_is_section(kind) for kind in kinds):
            return {}
        return value.lower() == "true" if bool in kinds and value.lower() in ("true", "false") else value
    if isinstance(value, dict):
        return {
            key: _plain(item, [inner for kind in kinds for inner in _inside(kind, key)]) for key, item in value.items()
        }
    if not isinstance(value, list):
        return value
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


def _inside(kind: Any, key: str | int) -> list[Any]:
    """The alternatives of the value under `key` in a section or mapping. A variant holds settings."""
    if kind == Group:
        return [Config]
    if kind is Config and key == "sweep":  # of a variant, see `cliptea.sweeps`
        return [dict[str, Any]]
    if get_origin(kind) is dict:
        return _kinds(get_args(kind)[1])
    field = kind.model_fields.get(str(key)) if _is_section(kind) else None
    return [] if field is None else _kinds(field.annotation)


def _holds(kind: Any) -> bool:
    return get_origin(kind) in (dict, list, tuple) or _is_section(kind)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
