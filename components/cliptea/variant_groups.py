"""Groups of variants, and what a variant changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cliptea.config import ABOUT, NAMES, TRACKED, Config, Group
from cliptea.errors import ConfigError
from cliptea.nested import flatten, merge, nested
from cliptea.shipped import read_yaml, yaml_names
from cliptea.sweeps import SWEEP, Trial, trials
from cliptea.valid_config import SHOWN, one_of, validated

__all__ = [
    "about_variant", "apply_delta", "check_groups", "unfold", "unused_groups", "variant_group", "variant_groups",
]  # fmt: skip

LONGEST_ABOUT = 200  # characters
# What a variant may change. Everything else is the same for all students of a run, so that they can be compared.
CHANGEABLE = ["seeds", "method", "student", "train"]


def variant_groups() -> list[str]:
    """Names of the shipped variant groups."""
    return yaml_names("variants")


def variant_group(name: str, own: Mapping[str, Group] | None = None) -> Group:
    """Variants of a group ("table3") or one of them ("table3/no_ce"): variant name -> config delta.

    Args:
        own: groups beside the shipped ones, by name.
    """
    group, _, single = name.partition("/")
    own = own or {}
    known = [*variant_groups(), *own]
    if group not in known:
        raise ConfigError(f"the variant group {group!r} does not exist", one_of(group, known))
    variants = own[group] if group in own else read_yaml("variants", group)
    if not single:
        return variants
    if single not in variants:
        raise ConfigError(f"group {group} has no variant {single!r}", one_of(single, list(variants)))
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
            changes = merge(changes, nested(key, value))
        yield name, changes, trial


def apply_delta(config: Config, delta: Mapping[str, Any]) -> Config:
    """Apply a variant's nested delta to a resolved config, so that it overrides everything else, and validate again."""
    return validated(merge(config.model_dump(), _changes(delta)))


def about_variant(delta: Mapping[str, Any], trial: Trial | None = None) -> str:
    """A variant in a short line: its `about`, or else the settings that it changes; for a trial, also its values."""
    about = delta.get(ABOUT)
    if about and trial:
        about = f"{about}: {trial.words}"
    changes = ", ".join(f"{key}={value}" for key, value in flatten(_changes(delta)).items() if value != {})
    text = about or changes or "The settings of the run"
    return text if len(text) <= LONGEST_ABOUT else f"{text[: LONGEST_ABOUT - 1]}…"


def check_groups(config: Config) -> None:
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


def _changes(delta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in delta.items() if key != ABOUT}
