"""Preset files and variant files of the user's own, on this machine or in S3.

A preset file becomes one text, which contains the variants of the files that it names. So a run on a cluster needs no
file of the machine that submits it. Files never name code to run: only the command line does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from posixpath import dirname
from typing import Any

from cliptea.errors import ConfigError
from cliptea.messages import holds_secret, names_secret
from cliptea.parse import parse_yaml, read_text
from cliptea.storage import fetch, is_remote
from cliptea.typed import plain_settings, plain_variants

__all__ = ["gather_variants", "parse_preset", "read_preset", "variant_files"]

LARGEST = 1 << 16  # bytes of a preset file with its variants: it is an argument of a process and of a pipeline
VARIANTS = re.compile(r"(?P<file>.+\.ya?ml)(?P<single>/[^/]+)?")  # an entry of `variants` that names a file
# Settings that can be package.module:name, which is imported.
CODE = re.compile(r"(?:.*\.)?(?:student\.backbone|data\.dataset|evaluation\.sets\.[^.]+\.dataset)")


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
    if len(text.encode()) > LARGEST:
        raise ConfigError(
            f"{address} holds {len(text.encode())} bytes of settings with its variants", f"at most {LARGEST}"
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
    chosen, groups = settings.get("variants"), dict(settings.get("variant_groups") or {})
    if not isinstance(chosen, list):
        return dict(settings)
    names = []
    for entry in chosen:
        match = VARIANTS.fullmatch(str(entry))
        if match is None:
            names.append(entry)
            continue
        if is_remote(folder) and not is_remote(_placed(match["file"], folder)):
            raise ConfigError(
                f"variants names {match['file']} in a file in S3", "an s3:// address, or a name beside it"
            )
        address, group = _placed(match["file"], folder), PurePosixPath(match["file"]).stem
        text = _read(address, "the variant file")
        variants = plain_variants(_parse(text, address, "variants such as wide: {student: {dropout: 0.2}}"))
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
    if not folder or "://" in file or file.startswith(("/", "~")):
        return file
    return f"{folder}/{file.removeprefix('./')}"


def _read(address: str, what: str) -> str:
    if holds_secret(address):
        raise ConfigError(
            f"the address of {what} holds a user, password or signature",
            "an address without credentials",
            "set credentials as environment variables, see docs/environment.md",
        )
    path = fetch(address) if "://" in address else Path(address).expanduser()
    try:
        return read_text(path, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {address} is not UTF-8", "YAML in UTF-8") from None


def _parse(text: str, name: str, expected: str) -> dict[str, Any]:
    """The content of a file with every scalar as its text, without secrets and code."""
    found = parse_yaml(text, name, expected, typed=False)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{name} holds no mapping", expected)
    for key, value in _leaves(found):
        if holds_secret(value) or holds_secret(key):
            raise ConfigError(
                f"{name}: {'a key' if holds_secret(key) else key} holds an address with a user, password or "
                "signature, and settings are printed and stored",
                "an address without credentials",
                "set credentials as environment variables, see docs/environment.md",
            )
        if names_secret(key):
            raise ConfigError(
                f"{name}: the setting {key!r} looks like a secret, and settings are printed and stored",
                "secrets in the environment only",
                "see docs/environment.md for the variables",
            )
        if CODE.fullmatch(key) and ":" in value and not value.startswith("timm:"):
            raise ConfigError(
                f"{name}: {key}={value} names code to run, and files may not do that",
                "a name that cliptea knows",
                f"if you trust this code, name it yourself with --set {key}={value}",
            )
    return found


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text in nested mappings and lists, with its key such as "train.lr"."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    else:
        yield key, str(value)
