"""Preset files and variant files of the user's own, on this machine or in S3.

A preset file becomes one text, which contains the variants of the files that it names. So a run on a cluster needs no
file of the machine that submits it. Files never name code to run: only the command line does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from posixpath import dirname
from typing import Any

from cliptea.addresses import is_uri
from cliptea.errors import ConfigError
from cliptea.messages import holds_secret, names_secret
from cliptea.own_code import backbone_is_code, names_code
from cliptea.parse import MOST, parse_yaml, read_text
from cliptea.storage import fetch, is_remote, read_small
from cliptea.typed import plain_settings, plain_variants, without_free_names

__all__ = ["gather_variants", "parse_preset", "read_preset", "variant_files"]

LONGEST_KEY, LONGEST_VALUE = 1000, 10_000  # characters in a file; a key includes those around it
LARGEST = 1 << 16  # bytes of a local preset file with its variants: they are a parameter of a pipeline
VARIANTS = re.compile(r"(?P<file>.+\.(?i:ya?ml))(?P<single>/[^/]+)?")  # an entry of `variants` that names a file


def read_preset(address: str) -> str:
    """The settings of a preset file as JSON, together with the variants of the files that it names.

    Args:
        address: path, file:// or s3:// URI. The files that it names are relative to its folder.

    Raises:
        ConfigError: a file cannot be read, is no mapping, or holds a secret or the name of code.
        StorageError: it is not in its bucket.
    """
    settings = parse_preset(_read(address, "the preset file"), address)
    text = json.dumps(gather_variants(settings, dirname(address)), ensure_ascii=False)
    if len(text.encode()) > LARGEST and not is_remote(address):
        raise ConfigError(
            f"{address} holds {len(text.encode())} bytes of settings with its variants",
            f"at most {LARGEST >> 10} KiB",
            "put the files into a bucket, where they may be larger, and name the s3:// address",
        )
    return text


def parse_preset(text: str, name: str) -> dict[str, Any]:
    """The settings in the text of a preset file.

    Args:
        name: of the file, for errors.

    Raises:
        ConfigError: as for `read_preset`.
    """
    return plain_settings(_parse(text, name, "settings such as train: {iterations: 200}"))


def gather_variants(settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The settings with the groups of the variant files that `variants` names, each with the name of its file.

    Args:
        folder: what the names of files are relative to; "" for the current one.

    Raises:
        ConfigError: a file cannot be read, or another group has its name.
        StorageError: it is not in its bucket.
    """
    chosen, groups = settings.get("variants"), settings.get("variant_groups", {})
    if not isinstance(chosen, list) or not isinstance(groups, dict):
        return dict(settings)  # whoever checks the settings refuses what is neither
    names, groups = [], dict(groups)
    for entry in chosen:
        match = VARIANTS.fullmatch(str(entry))
        if match is None:
            names.append(entry)
            continue
        if is_remote(folder) and not is_remote(_placed(match["file"], folder)):
            raise ConfigError(
                f"a preset in S3 names the local variant file {match['file']}", "an s3:// address, or a name beside it"
            )
        address, group = _placed(match["file"], folder), PurePosixPath(match["file"]).stem
        if resources.files("cliptea").joinpath("variants", f"{group}.yaml").is_file():
            raise ConfigError(
                f"the variant file {address} has the name of the group {group} of cliptea",
                "another name",
                "rename the file",
            )
        text = _read(address, "the variant file")
        expected = "variants such as wide: {student: {dropout: 0.2}}"
        variants = plain_variants(_parse(text, address, expected, ("variant_groups", group)))
        if groups.setdefault(group, variants) != variants:
            raise ConfigError(f"{address} is one of two groups called {group}", "a name for each", "rename the file")
        names.append(group + (match["single"] or ""))
    return {**settings, "variants": names} | ({"variant_groups": groups} if groups else {})


def variant_files(settings: Mapping[str, Any]) -> list[str]:
    """The files that `variants` names."""
    chosen = settings.get("variants")
    matches = [VARIANTS.fullmatch(str(entry)) for entry in chosen] if isinstance(chosen, list) else []
    return [match["file"] for match in matches if match]


def _placed(file: str, folder: str) -> str:
    if not folder or is_uri(file) or file.startswith(("/", "~")):
        return file
    return f"{folder}/{file.removeprefix('./')}"


def _read(address: str, what: str) -> str:
    if holds_secret(address):
        raise ConfigError(
            f"the address of {what} holds a user, password or signature",
            "an address without credentials",
            "set credentials as environment variables, see docs/environment.md",
        )
    try:
        if is_remote(address):
            data = read_small(address, MOST)
        else:
            data = read_text(fetch(address) if is_uri(address) else Path(address).expanduser(), what)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {address} is not UTF-8", "YAML in UTF-8") from None
    except RuntimeError:  # of expanduser()
        raise ConfigError(f"cannot read {what} {address}: there is no such user", "a path") from None


def _parse(text: str, name: str, expected: str, place: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a file with every scalar as its text, without secrets and code.

    Args:
        place: the keys of the settings that the file holds; () for all of them.
    """
    found = parse_yaml(text, name, expected, typed=False)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{name} is empty or is not a mapping", expected)
    checked: set[str] = set()  # aliases repeat the same texts
    for keys, value in _leaves(found, tuple(place)):
        key = ".".join(keys)
        if len(key) > LONGEST_KEY or len(value) > LONGEST_VALUE:
            raise ConfigError(
                f"{name}: the key of a setting has {len(key)} characters, and its value has {len(value)}",
                f"at most {LONGEST_KEY} and {LONGEST_VALUE}",
            )
        new = {*keys, value} - checked
        checked |= new
        hidden = {text for text in new if holds_secret(text)}
        secret_key = not hidden.isdisjoint(keys)
        if hidden:
            raise ConfigError(
                f"{name}: {'a key' if secret_key else key} holds an address with a user, password or "
                "signature, and settings are printed and stored",
                "an address without credentials",
                "set credentials as environment variables, see docs/environment.md",
            )
        if any(names_secret(part) for part in without_free_names(keys)):
            raise ConfigError(
                f"{name}: the setting {key!r} looks like a secret, and settings are printed and stored",
                "secrets in the environment only",
                "see docs/environment.md for the variables",
            )
        if _is_code(keys, value):
            raise ConfigError(
                f"{name}: {key}={value} names code to run, and files may not do that",
                "a name that cliptea knows",
                f"if you trust this code, name it yourself with --set {key}={value}",
            )
    return found


def _is_code(keys: Sequence[str], value: str) -> bool:
    """Whether the setting under these keys is package.module:name, which is imported."""
    match keys:
        case ("student", "backbone"):
            return backbone_is_code(value)
        case ("data", "dataset") | ("evaluation", "sets", _, "dataset"):
            return names_code(value)
        case ("variant_groups", _, _, *inner):
            return _is_code(inner, value)
        case ("sweep", "space", key, *_) | ("sweep", key, *_):
            return _is_code(key.split("."), value)
    return False


def _leaves(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each text in nested mappings and lists, with its keys such as "train" and "lr"."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*keys, str(name)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, keys)
    else:
        yield keys, str(value)
