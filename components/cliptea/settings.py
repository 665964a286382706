"""Settings are merged as defaults <- preset <- overrides <- variant and validated as one `Config`.

A preset is one that cliptea brings, or a file of the user's own, see `cliptea.preset_files`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from posixpath import basename
from typing import Any

from pydantic import BaseModel, ValidationError

from cliptea.config import ABOUT, NAMES, TRACKED, Config, Group
from cliptea.errors import ConfigError
from cliptea.messages import holds_secret, names_secret
from cliptea.parse import parse_yaml
from cliptea.preset_files import gather_variants, parse_preset, read_preset, variant_files
from cliptea.storage import is_remote
from cliptea.sweeps import SWEEP, Trial, trials
from cliptea.typed import key_of, typed_value, without_free_names

__all__ = [
    "about_variant",
    "apply_delta",
    "flatten",
    "load",
    "load_without_teacher",
    "merge",
    "presets",
    "unfold",
    "unused_groups",
    "variant_files_of",
    "variant_group",
    "variant_groups",
]

SHOWN = 100  # characters of a refused value
LONGEST_ABOUT = 200  # characters
# What a variant may change. Everything else is the same for all students of a run, so that they can be compared.
CHANGEABLE = ["seeds", "method", "student", "train"]


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
    """As `load`, for what needs no CLIP."""
    if is_remote(preset) and not text:
        text = read_preset(preset)
    base = _own_preset(preset, text) if text else _shipped_preset(preset)
    delta = gather_variants(merge(base, _typed(overrides)), "")
    config = _validate(delta, preset if text else "", base)
    _check_groups(config)
    for name in config.variants:
        variant_group(name, config.variant_groups)
    return config


def variant_files_of(overrides: Sequence[str]) -> list[str]:
    """The variant files that `variants` names in overrides."""
    return variant_files(_typed(overrides))


def apply_delta(config: Config, delta: Mapping[str, Any]) -> Config:
    """Apply a variant's nested delta to a resolved config, so that it overrides everything else, and validate again."""
    return _validate(merge(config.model_dump(), _changes(delta)))


def about_variant(delta: Mapping[str, Any], trial: Trial | None = None) -> str:
    """A variant in a short line: its `about`, or else the settings that it changes; for a trial, also its values."""
    about = delta.get(ABOUT)
    if about and trial:
        about = f"{about}: {trial.words}"
    changes = ", ".join(f"{key}={value}" for key, value in flatten(_changes(delta)).items() if value != {})
    text = about or changes or "The settings of the run"
    return text if len(text) <= LONGEST_ABOUT else f"{text[: LONGEST_ABOUT - 1]}…"


def _changes(delta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in delta.items() if key != ABOUT}


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


def variant_group(name: str, own: Mapping[str, Group] | None = None) -> Group:
    """Variants of a group ("table3") or one of them ("table3/no_ce"): variant name -> config delta.

    Args:
        own: groups beside the shipped ones, by name.
    """
    group, _, single = name.partition("/")
    own = own or {}
    known = [*variant_groups(), *own]
    if group not in known:
        raise ConfigError(f"the variant group {group!r} does not exist", _one_of(group, known))
    variants = own[group] if group in own else _read_yaml("variants", group)
    if not single:
        return variants
    if single not in variants:
        raise ConfigError(f"group {group} has no variant {single!r}", _one_of(single, list(variants)))
    return {single: variants[single]}


def unused_groups(config: Config) -> list[str]:
    """The groups of variants of the user's own from which `variants` takes nothing."""
    used = {name.partition("/")[0] for name in config.variants}
    return [group for group in config.variant_groups if group not in used]


def unfold(variant: str, delta: Mapping[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any], Trial | None]]:
    """Name and changes of a variant; or of each trial of its sweep, with the trial.

    Args:
        place: key of the variant, for errors.

    Raises:
        ConfigError: the sweep is not usable, see `cliptea.sweeps.trials`.
    """
    if SWEEP not in delta:
        yield variant, dict(delta), None
        return
    base = {key: value for key, value in delta.items() if key != SWEEP}
    for name, trial in trials(variant, delta[SWEEP], f"{place}.{SWEEP}").items():
        changes = base
        for key, value in trial.settings.items():
            changes = merge(changes, _nested(key, value))
        yield name, changes, trial


def _yaml_names(folder: str) -> list[str]:
    files = resources.files("cliptea").joinpath(folder).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def _read_yaml(folder: str, name: str) -> dict[str, Any]:
    text = resources.files("cliptea").joinpath(folder, f"{name}.yaml").read_text(encoding="utf-8")
    return {key: value or {} for key, value in (parse_yaml(text, f"{folder}/{name}.yaml") or {}).items()}


def _parse(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
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
    return _nested(key, value)


def _nested(key: str, value: Any) -> dict[str, Any]:
    """The setting "train.lr" as {"train": {"lr": value}}."""
    *outer, last = key.split(".")
    delta = {last: value}
    for part in reversed(outer):
        delta = {part: delta}
    return delta


def _shipped_preset(name: str) -> dict[str, Any]:
    if name not in presets():
        todo = "pass a file of your own with --config" if name.lower().endswith((".yaml", ".yml")) else ""
        raise ConfigError(f"the preset {name!r} does not exist", _one_of(name, presets()), todo)
    return _read_yaml("presets", name) | {"preset": name}


def _own_preset(name: str, text: str) -> dict[str, Any]:
    """The settings of a preset file on top of those of the preset that it names, if it names one."""
    delta = parse_preset(text, name)
    base = delta.get("preset")
    if base is not None and base not in presets():
        raise ConfigError(f"{name}: the preset {base!r} does not exist", _one_of(str(base), presets()))
    own = "config" if name in presets() else basename(name)  # somebody gave the parameter `config` alone to a pipeline
    return merge({} if base is None else _shipped_preset(base), delta) | {"preset": own}


def _typed(overrides: Sequence[str]) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    for override in overrides:
        delta = merge(delta, _parse(override))
    return delta


def _validate(delta: Mapping[str, Any], file: str = "", inside: Mapping[str, Any] | None = None) -> Config:
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


def _check_groups(config: Config) -> None:
    """Check the groups of variants that are not shipped.

    Raises:
        ConfigError: a name is taken or not usable, or a variant changes what it cannot.
    """
    alone = config.model_copy(update={"variant_groups": {}})
    for group, variants in config.variant_groups.items():
        if group in variant_groups():
            raise ConfigError(f"variant_groups.{group} has the name of a shipped group", "another name")
        if not variants:
            raise ConfigError(f"variant_groups.{group} has no variants", "names with settings, such as full: {}")
        for variant, delta in variants.items():
            key = f"variant_groups.{group}.{variant}"
            about = delta.get(ABOUT, "")
            if not isinstance(about, str) or len(about) > LONGEST_ABOUT or not about.isprintable():
                raise ConfigError(
                    f"{key}.about={str(about)[:SHOWN]!r} is refused", f"one line of at most {LONGEST_ABOUT} characters"
                )
            for name, changes, trial in unfold(variant, delta, key):
                _check_changes(alone, key, (group, name), changes, trial)


def _check_changes(
    alone: Config, key: str, names: tuple[str, str], changes: Mapping[str, Any], trial: Trial | None
) -> None:
    """Check a variant or trial.

    Args:
        alone: the config without variants of the user's own.
        names: of the group, and of the variant or trial.
    """
    for name in names:
        if not TRACKED.fullmatch(name):
            raise ConfigError(f"{key} has the name {name!r}", f"a name that MLflow accepts, {NAMES}")
    fixed = [name for name in Config.model_fields if name in changes and name not in CHANGEABLE]
    if fixed:
        raise ConfigError(
            f"{key} changes {fixed[0]}, which is the same for all students of a run",
            f"changes of {', '.join(CHANGEABLE)}",
        )
    try:
        apply_delta(alone, changes)
    except ConfigError as error:
        tried = f", trial {trial.words}" if trial else ""
        raise ConfigError(f"{key}{tried}: {error.what}", error.expected, error.todo) from None


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
        return ConfigError(f"the setting {key} does not exist", _one_of(key, known))
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
    same = [one for one in valid if one.rpartition(".")[2] == name.rpartition(".")[2]]  # in another section
    near = same or difflib.get_close_matches(name, valid, n=1)
    return (
        f"an existing key, perhaps {' or '.join(near[:3])}" if near else "an existing key; `cliptea config` lists them"
    )
