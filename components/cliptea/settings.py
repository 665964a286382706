"""Settings are merged as defaults <- preset <- overrides <- variant and validated as one `Config`.

A preset is one that cliptea ships, or a file of the user's own, see `cliptea.preset_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import basename
from typing import Any

from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.messages import holds_secret, names_secret
from cliptea.nested import merge, nested
from cliptea.parse import require_utf8
from cliptea.preset_files import gather_variants, parse_preset, read_preset, variant_files
from cliptea.shipped import read_yaml, yaml_names
from cliptea.storage import is_remote
from cliptea.typed import typed_value, without_free_names
from cliptea.valid_config import one_of, validated
from cliptea.variant_groups import check_groups, variant_group

__all__ = ["given_settings", "load", "load_without_teacher", "presets", "variant_files_of"]

LONGEST = 1 << 16  # characters of a setting on the command line


def load(preset: str = "demo", overrides: Sequence[str] = (), text: str = "") -> Config:
    """Resolve a preset and overrides of the form "a.b=c" into a validated config.

    Args:
        preset: the name of a preset, or of the file whose settings are in `text`; or the s3:// URI of a preset file.
        overrides: of the command line.
        text: the content of a preset file of the user's own, from `cliptea.preset_files`.

    Raises:
        ConfigError: the preset or a key does not exist, a type is wrong, settings contradict each other, or no weights
            of CLIP are set; one line.
        StorageError: a file of settings is not in its bucket.
    """
    config = load_without_teacher(preset, overrides, text)
    if config.teacher.weights is None:
        raise ConfigError(
            "teacher.weights is not set",
            "the CLIP weights to distil: a file, a folder, an open_clip tag such as openai, or demo",
            "add --set teacher.weights=... (demo is a small stand-in that is meaningless on real photos)",
        )
    return config


def load_without_teacher(preset: str, overrides: Sequence[str], text: str = "") -> Config:
    """Like `load`, for commands that do not need CLIP."""
    if is_remote(preset) and not text:
        text = read_preset(preset)
    base = _own_preset(preset, text) if text else _shipped_preset(preset)
    delta = gather_variants(merge(base, _typed(overrides)), "")
    config = validated(delta, preset if text else "", base)
    check_groups(config)
    for name in config.variants:
        variant_group(name, config.variant_groups)
    return config


def given_settings(preset: str, overrides: Sequence[str], text: str = "") -> dict[str, Any]:
    """The settings in overrides and in a preset file of the user's own, without those of a preset of cliptea.

    The arguments and errors are those of `load`.
    """
    if is_remote(preset) and not text:
        text = read_preset(preset)
    return merge(parse_preset(text, preset) if text else {}, _typed(overrides))


def variant_files_of(overrides: Sequence[str]) -> list[str]:
    """The variant files that `variants` names in overrides."""
    return variant_files(_typed(overrides))


def presets() -> list[str]:
    """Names of the shipped presets."""
    return yaml_names("presets")


def _typed(overrides: Sequence[str]) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    for override in overrides:
        delta = merge(delta, _parse(override))
    return delta


def _parse(override: Any) -> dict[str, Any]:
    if not isinstance(override, str):  # a pipeline may be started with any list
        raise ConfigError(f"cannot read the setting {override!r}", "text such as train.iterations=200")
    if len(override) > LONGEST:
        raise ConfigError(
            f"the setting {override.partition('=')[0][:100]} has {len(override)} characters", f"at most {LONGEST}"
        )
    key, equals, text = override.partition("=")
    key = key.strip()
    require_utf8(override, f"the setting {key}")
    value = "" if holds_secret(override) else typed_value(key, text)
    if holds_secret(f"{override} {value}"):  # YAML may spell an address so that only its value shows it
        raise ConfigError(
            f"{'a setting' if '://' in key else key} holds an address with a user, password or signature, "
            "and settings are printed and stored",
            "an address without credentials",
            "set credentials as environment variables, see docs/environment.md",
        )
    if not equals or not key:
        raise ConfigError(f"cannot read the setting {override!r}", "key=value, such as train.iterations=200")
    if any(names_secret(part) for part in without_free_names(key.split("."))):
        raise ConfigError(
            f"the setting {key!r} looks like a secret, and settings are printed and stored",
            "secrets in the environment only",
            "see docs/environment.md for the variables",
        )
    if key == "preset":
        raise ConfigError(
            "preset cannot be overridden with --set", "the preset's name in --preset, or in the file of --config"
        )
    return nested(key, value)


def _shipped_preset(name: str) -> dict[str, Any]:
    if name not in presets():
        todo = "pass a file of your own with --config" if name.lower().endswith((".yaml", ".yml")) else ""
        raise ConfigError(f"the preset {name!r} does not exist", one_of(name, presets()), todo)
    return read_yaml("presets", name) | {"preset": name}


def _own_preset(name: str, text: str) -> dict[str, Any]:
    """The settings of a preset file on top of those of the preset that it names, if it names one."""
    delta = parse_preset(text, name)
    base = delta.get("preset")
    if base is not None and base not in presets():
        raise ConfigError(f"{name}: the preset {base!r} does not exist", one_of(str(base), presets()))
    own = "config" if name in presets() else basename(name)  # somebody gave the parameter `config` alone to a pipeline
    return merge({} if base is None else _shipped_preset(base), delta) | {"preset": own}
