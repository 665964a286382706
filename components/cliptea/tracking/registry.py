"""Registered models in MLflow and their alias `champion`.

The alias only reflects the result of `replay`. A run that promotes registers its version first, then sets the alias to
the champion of all versions that it sees, and repeats this until nothing changes. A version that it does not see
belongs to a run that will check later. If a run is killed in between, the next run completes its work.

A user can set the alias in MLflow's user interface. It is distinguished from a run that is about to set it by the tag
`settled`, which a run sets last. The user's choice then becomes part of the history, and later models must beat it.

A champion whose score is damaged keeps the alias in the same way. No model beats it until its score is written anew.
"""

from __future__ import annotations

import math
import re
import time
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from cliptea import progress
from cliptea.errors import ConfigError, NotFinite
from cliptea.model_address import CHAMPION
from cliptea.tracking.champions import Choice, Decision, History, Score, replay
from cliptea.tracking.score_tags import DAMAGED, is_damaged, is_scored, score_of, score_tags

__all__ = ["Outcome", "champion", "register", "registered_by", "rollback", "settle"]

CHOSEN_TAG = "cliptea.chosen"  # with the last version at that moment and the moment: cliptea.chosen.7.1700000000000
CHOSEN = re.compile(re.escape(CHOSEN_TAG) + r"\.([0-9]{1,18})\.([0-9]{1,18})")
DECISION_TAG, REASON_TAG, SETTLED_TAG = "cliptea.decision", "cliptea.reason", "cliptea.settled"
DESCRIBED = "The champion is version "  # how a description begins that was not written by a user
DEAD_SECONDS = 3600.0  # a run that has not settled its version by then was killed
WRITING_SECONDS = 1.0  # a run that writes another score has set all of its tags by then


class Outcome(NamedTuple):
    """The decision about a version, and the current champion."""

    decision: Decision
    champion: int


class _Registry(NamedTuple):
    """The contents of the registry for one model at one moment."""

    versions: dict[int, ModelVersion]
    alias: int | None
    description: str
    history: History


def register(client: MlflowClient, name: str, source: str, run_id: str, score: Score, tags: dict[str, str]) -> int:
    """The version of the model at `source`. If it does not exist, it is created together with its score.

    If it had another score, as the student was trained again, it gets the new one.

    Raises:
        NotFinite: the score is NaN or infinite.
    """
    if score.hiou is None or not math.isfinite(score.hiou):
        raise NotFinite(f"the hIoU of {source} is {score.hiou}, so it is not registered", "a number from 0 to 1")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    measured = score_tags(score, run_id)
    for version in client.search_model_versions(_named(name)):
        if version.source == source:
            for key, value in measured.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(name, version.version, key, value)
            return int(version.version)
    return int(client.create_model_version(name, source=source, run_id=run_id, tags=measured | tags).version)


def settle(client: MlflowClient, name: str, version: int) -> Outcome:
    """Set the alias to the champion of all versions, even if other runs do the same at the same time.

    If versions were deleted or got other scores, earlier decisions may change. Their versions then get tags and a
    description anew.
    """
    _note_choice_by_hand(client, name, _read_and_note_damage(client, name), version)
    seen = _align(client, name)
    for number, decision in seen.history.decisions.items():
        decided = seen.versions[number].tags.get(DECISION_TAG)
        if number == version:
            _tell(client, seen.versions[number], decision)
        elif decided is not None and decided != _word(decision):
            reason = f"{decision.reason} (decided again, because versions were deleted or their scores have changed)"
            _tell(client, seen.versions[number], decision._replace(reason=reason))
    return Outcome(seen.history.decisions[version], seen.history.champions[-1])


def champion(client: MlflowClient, name: str) -> int | None:
    """The version of the champion, or None if there is none."""
    try:
        return _alias(client.get_registered_model(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None  # the model was deleted


def registered_by(client: MlflowClient, name: str, version: str) -> str | None:
    """The MLflow run whose model a version is, or None if there is no such version or its score is damaged."""
    try:
        found = client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if is_damaged(found) else found.run_id


def rollback(client: MlflowClient, name: str) -> tuple[int, int]:
    """Restore the previous champion. Returns the versions of the old and the new champion.

    Raises:
        ConfigError: the model does not exist, or there is no previous champion.
    """
    try:
        _note_choice_by_hand(client, name, _read_and_note_damage(client, name), None)
        seen = _read(client, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(model.name for model in client.search_registered_models()) or "none so far"
        raise ConfigError(f"the registered model {name!r} does not exist", f"a model in MLflow: {known}") from None
    champions = seen.history.champions
    if not champions:
        raise ConfigError(f"{name} has no champion", "a champion and a previous champion to restore")
    if len(champions) == 1:
        raise ConfigError(
            f"version {champions[0]} is the first champion of {name}",
            "a previous champion to restore",
            f"to choose another version, give it the alias {CHAMPION} in MLflow",
        )
    before, present = champions[-2:]
    client.set_model_version_tag(name, str(present), REASON_TAG, f"rolled back to version {before}")
    _choose(client, name, before, max(seen.versions))
    return present, _align(client, name).history.champions[-1]


def _word(decision: Decision) -> str:
    return "promoted" if decision.promoted else "not promoted"


def _tell(client: MlflowClient, version: ModelVersion, decision: Decision) -> None:
    """Write a decision into the tags and the description of its version."""
    for key, value in {DECISION_TAG: _word(decision), REASON_TAG: decision.reason, SETTLED_TAG: "yes"}.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    description = f"{_what(version)}. {_word(decision).capitalize()}: {decision.reason}."
    client.update_model_version(version.name, version.version, description)


def _align(client: MlflowClient, name: str) -> _Registry:
    """Set the alias until it matches the champion of all versions, and return the contents of the registry.

    The description of the model names the champion too, unless a user has written another description.
    """
    while True:
        seen = _read(client, name)
        champion = seen.history.champions[-1]
        description = f"{DESCRIBED}{champion}: {_what(seen.versions[champion])}."
        by_user = bool(seen.description) and not seen.description.startswith(DESCRIBED)
        described = by_user or seen.description == description
        if seen.alias == champion and described:
            return seen
        if seen.alias != champion:
            try:
                client.set_registered_model_alias(name, CHAMPION, str(champion))
            except MlflowException:  # MLflow refuses it if another run sets the alias at the same moment
                if _read(client, name).alias == seen.alias:
                    raise
        if not described:
            client.update_registered_model(name, description)


def _what(version: ModelVersion) -> str:
    """A version in words: its variant, backbone and score."""
    parts = [version.tags[key] for key in ("variant", "backbone") if key in version.tags]
    hiou = score_of(version).hiou
    return ", ".join([*dict.fromkeys(parts), "no hIoU" if hiou is None else f"hIoU {100 * hiou:.1f} %"])


def _named(name: str) -> str:
    quote = '"' if "'" in name else "'"
    return f"name = {quote}{name}{quote}"


def _read(client: MlflowClient, name: str) -> _Registry:
    model = client.get_registered_model(name)  # before the versions: its alias is never of a newer one
    found = client.search_model_versions(_named(name))
    if any(map(is_damaged, found)):
        time.sleep(WRITING_SECONDS)
        found = client.search_model_versions(_named(name))
    versions = {int(version.version): version for version in found}
    return _Registry(versions, _alias(model), model.description or "", _history(versions, set(versions)))


def _alias(model: RegisteredModel) -> int | None:
    alias = model.aliases.get(CHAMPION)
    return None if alias is None else int(alias)


def _read_and_note_damage(client: MlflowClient, name: str) -> _Registry:
    seen = _read(client, name)
    for number, version in sorted(seen.versions.items()):
        if is_damaged(version):
            progress.warn(f"the score of {name} version {number} is damaged: {DAMAGED}")
    return seen


def _history(versions: dict[int, ModelVersion], deciding: set[int]) -> History:
    """The history in which only the versions `deciding` were candidates."""
    scores = {number: score_of(version) for number, version in versions.items() if number in deciding}
    choices = [choice for number, version in versions.items() for choice in _choices(number, version.tags)]
    return replay(scores, choices)


def _choices(version: int, tags: dict[str, str]) -> list[Choice]:
    found = [match for key in tags if (match := CHOSEN.fullmatch(key))]  # others are not from cliptea
    return [Choice(int(match[1]), int(match[2]), version) for match in found]


def _choose(client: MlflowClient, name: str, version: int, after: int) -> None:
    moment = time.time_ns() // 1_000_000
    client.set_model_version_tag(name, str(version), f"{CHOSEN_TAG}.{after}.{moment}", CHAMPION)


def _note_choice_by_hand(client: MlflowClient, name: str, seen: _Registry, own: int | None) -> None:
    """Record an alias as a choice if no run can have set it.

    Args:
        own: the version that the calling run is about to settle.
    """
    if seen.alias is None or seen.alias == own or seen.alias not in seen.versions:
        return
    others = {number: version for number, version in seen.versions.items() if number != own}
    numbers = sorted(others)
    oldest = (time.time() - DEAD_SECONDS) * 1000
    unsettled = [n for n in numbers if _may_be_settling(others[n], oldest)]
    # A run sees all versions up to some number, and sets the alias to their champion. Until a run that is about to
    # settle its version has seen the later ones, the alias may be the champion of the earlier ones.
    position = numbers.index(unsettled[0]) if unsettled else len(numbers)
    ends = numbers[max(position - 1, 0) :]
    by_runs = [_history(seen.versions, {n for n in numbers if n <= end}).champions[-1:] for end in ends]
    if [seen.alias] not in by_runs:
        _choose(client, name, seen.alias, numbers[-1])


def _may_be_settling(version: ModelVersion, oldest: float) -> bool:
    """Whether a run that is still alive may have registered this version, and not yet decided about it."""
    return is_scored(version) and SETTLED_TAG not in version.tags and version.creation_timestamp > oldest
