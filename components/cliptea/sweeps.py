"""Sweeps: variants that each stand for many trials, which differ in the values of some settings.

All trials are known before training starts, and each is an ordinary variant of the run. They share its tokens, train in
parallel and are compared like all others. Only their score on held-out training images chooses among them, see
`cliptea.evaluation.ranking`.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cliptea.config import VALIDATION
from cliptea.errors import ConfigError
from cliptea.setting_types import NUMBER, WHOLE
from cliptea.typed import kinds_of, plain_value

__all__ = ["MOST_TRIALS", "SWEEP", "Range", "Search", "Trial", "trials"]

SWEEP = "sweep"  # key of a variant
MOST_TRIALS = 1000  # of one sweep
LONGEST = 100  # characters of a name that MLflow accepts
DIGITS = 4  # significant digits of drawn numbers
EXAMPLE = "settings with lists of values such as train.lr: [1e-4, 3e-4], or trials and space; see docs/settings.md"
SECTIONS = ("method", "student", "train")
# What decides how trials are judged, and what no table may mix. A model to start from may have seen the held-out masks.
FIXED = (
    "seeds", "method.transductive", "train.init_from", "train.validate_every",
    *(f"train.{name}" for name in VALIDATION),
)  # fmt: skip

Model = TypeVar("Model", bound=BaseModel)
Number = Annotated[float, Field(allow_inf_nan=False), NUMBER]


class Trial(BaseModel):
    """What makes a variant a trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sweep: str  # the name of the variant that stands for it
    settings: dict[str, Any]  # its values, such as {"train.lr": 0.0003}

    @property
    def words(self) -> str:
        """The values in words, for messages."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())


class Search(BaseModel):
    """A number of trials whose values are drawn. The seed determines them."""

    model_config = ConfigDict(extra="forbid")

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS), WHOLE]
    sampler: Literal["qmc", "random"] = "qmc"  # quasi-random numbers fill the space more evenly than random ones
    seed: Annotated[int, Field(ge=0, lt=1 << 32), WHOLE] = 0
    space: Annotated[dict[str, Any], Field(min_length=1)]  # for each setting a `Range`, or a list of values


class Range(BaseModel):
    """The numbers that a setting may have in a `Search`, both ends included."""

    model_config = ConfigDict(extra="forbid")

    low: Number
    high: Number
    log: bool = False  # draw the logarithm evenly instead of the number
    step: Number | None = None  # draw multiples of this, counted from `low`


def trials(name: str, sweep: Any, place: str) -> dict[str, Trial]:
    """The trials of a sweep by the names of their variants, which are the same for the same sweep.

    Args:
        name: of the variant that has the sweep.
        sweep: a grid, setting -> list of values; or the fields of a `Search`.
        place: key of the sweep, for errors.

    Raises:
        ConfigError: it is not one of these, has no values or too many trials, or needs a package that is missing.
    """
    if not isinstance(sweep, Mapping) or not sweep:
        raise ConfigError(f"{place} has no settings", EXAMPLE)
    drawn = _search(sweep, place) if {"space", "trials"} & sweep.keys() else _grid(sweep, place)
    known = {repr(sorted(values.items())): values for values in drawn}  # a search may draw the same values twice
    found = [Trial(sweep=name, settings=values) for values in known.values()]
    return {_label(number, trial): trial for number, trial in enumerate(found, 1)}


def _grid(sweep: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """All combinations of the values. The last setting varies fastest."""
    for key in sweep:
        _require_free(key, place)
    choices = {key: _choices(key, values, place) for key, values in sweep.items()}
    number = math.prod(map(len, choices.values()))
    if number > MOST_TRIALS:
        raise ConfigError(
            f"{place} has {number} trials",
            f"at most {MOST_TRIALS}",
            "remove values, or draw some of them with trials and space",
        )
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def _search(sweep: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Values drawn by Optuna. No result of a trial is used, so that all trials are known at once.

    Numbers are rounded to 4 significant digits, which keeps names and tables readable.
    """
    search = _checked(Search, sweep, place)
    for key in search.space:
        _require_free(key, f"{place}.space")
    try:
        import optuna
    except ModuleNotFoundError:
        raise ConfigError(
            f"{place} needs the Python package optuna, which is not installed",
            "cliptea with the extra sweep, or a grid",
            "run pip install '.[sweep]' in a checkout",
        ) from None
    place = f"{place}.space"
    lists = {key: _choices(key, it, place) for key, it in search.space.items() if not isinstance(it, Mapping)}
    ranges = {key: _range(key, it, place) for key, it in search.space.items() if key not in lists}
    places = {key: optuna.distributions.CategoricalDistribution(range(len(it))) for key, it in lists.items()}
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(sampler=_sampler(search))
        drawn = []
        for _ in range(search.trials):
            trial = study.ask({**ranges, **places})
            study.tell(trial, 0.0)  # the sampler needs an ended trial to begin its sequence; the value is not used
            numbers = {key: _rounded(trial.params[key], it) for key, it in ranges.items()}
            drawn.append({key: lists[key][trial.params[key]] if key in lists else numbers[key] for key in search.space})
    finally:
        optuna.logging.set_verbosity(told)
    return drawn


def _sampler(search: Search) -> Any:
    from optuna import exceptions, samplers

    if search.sampler == "random":
        return samplers.RandomSampler(seed=search.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ExperimentalWarning)
        return samplers.QMCSampler(seed=search.seed, scramble=True, warn_independent_sampling=False)


def _range(key: str, values: Mapping[str, Any], place: str) -> Any:
    """Optuna's distribution of a number. The type of the setting decides whether it is whole."""
    from optuna import distributions

    given, kinds = _checked(Range, values, f"{place}.{key}"), kinds_of(key)
    if kinds and not {int, float} & {*kinds}:
        raise ConfigError(f"{place}.{key} is a range of numbers, which {key} is not", "a list of values")
    try:
        if given.step and (_decimal(given.high) - _decimal(given.low)) % _decimal(given.step):
            raise ValueError("high minus low is not a multiple of step")
        if int in kinds and float not in kinds:
            whole = {"low": given.low, "high": given.high, "step": 1 if given.step is None else given.step}
            if any(value != int(value) for value in whole.values()):
                raise ValueError(f"{key} is a whole number")
            return distributions.IntDistribution(**{end: int(value) for end, value in whole.items()}, log=given.log)
        return distributions.FloatDistribution(given.low, given.high, given.log, given.step)
    except (ValueError, ArithmeticError) as error:
        why = str(error).rstrip(".") if isinstance(error, ValueError) else "its step is too small for its range"
        raise ConfigError(f"{place}.{key} is refused: {why}", "low, high, and log or step") from None


def _decimal(number: float) -> Decimal:
    return Decimal(str(number))  # exactly as it is written


def _rounded(value: Any, distribution: Any) -> Any:
    if not isinstance(value, float):
        return value
    if distribution.step is not None:
        return float(f"{value:.12g}")
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)


def _choices(key: str, values: Any, place: str) -> list[Any]:
    """The values of a setting, numbers as numbers."""
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{place}.{key} has no list of values", f"one such as {key}: [VALUE, VALUE]")
    found = [_value(key, value) for value in values]
    twice = next((value for number, value in enumerate(found) if value in found[:number]), None)
    if twice is not None or found.count(None) > 1:
        raise ConfigError(f"{place}.{key} has the value {twice} twice", "each value once")
    return found


def _value(key: str, value: Any) -> Any:
    """A value of a setting as its type. What the setting cannot be is left as it is, and refused with its variant."""
    value, kinds = plain_value(key, value), kinds_of(key)
    if isinstance(value, str) and "_" not in value:  # which Python takes
        for kind in (int, float):
            if kind in kinds:
                try:
                    return kind(value)
                except ValueError:
                    continue
    return value


def _require_free(key: str, place: str) -> None:
    """Check that trials may differ in this setting.

    Raises:
        ConfigError: it is a whole section, or trials with other values could not be compared.
    """
    if key in SECTIONS:
        raise ConfigError(f"{place} varies the whole section {key}", "the full name of a setting, such as train.lr")
    if any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED):
        raise ConfigError(
            f"{place} varies {key}, which must be the same for all trials",
            "other settings than seeds, those of validation, train.init_from and method.transductive",
        )


def _checked(model: type[Model], values: Any, place: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (place, *first["loc"])))
        known = ", ".join(model.model_fields)
        raise ConfigError(
            f"{key} is refused: {first['msg'][0].lower()}{first['msg'][1:]}", f"the keys {known}"
        ) from None


def _label(number: int, trial: Trial) -> str:
    """A name that MLflow accepts: the number of the trial, and its settings as far as they have room."""
    keys = list(trial.settings)
    ends = [key.rpartition(".")[2] for key in keys]
    short = [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]
    label = f"{trial.sweep}-{number:02d}"
    for name, value in zip(short, trial.settings.values(), strict=True):
        longer = f"{label} {name}_{_word(value)}"
        if len(longer) > LONGEST:
            break
        label = longer
    return label


def _word(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.-]+", "_", text).strip("._")
